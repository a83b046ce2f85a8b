"""The one place where an encoder's device and memory are looked after."""

from __future__ import annotations

import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._precision import autocast
from hisdiff_sd.encoders._base import check_tiles


class DeviceEncoder:
    """What the encoders of this package share: checked tiles go to the device, float32 vectors come back on it.

    Lower precision is autocast, not a cast of the weights: matrix products, nearly all of the work, run in bf16 or fp16,
    while norms, softmax and the sums along a transformer stay in float32, where the large activations of these models do
    not overflow. So the model cards do it, and the weights (and their fingerprint) remain as published.

    A subclass sets `name`, `dim`, `tile_px`, `fingerprint` and `licence`, and writes `_vectors`.

    Parameters
    ----------
    device
        Where it runs.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    name: str
    dim: int
    tile_px: int
    fingerprint: str
    licence: str

    def __init__(self, device: torch.device, precision: str = "fp32") -> None:
        self.device = device
        self.precision = precision

    def __repr__(self) -> str:
        settings = f"dim={self.dim}, device={str(self.device)!r}, precision={self.precision!r}"
        return f"{type(self).__name__}({self.name!r}, {settings})"

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles: uint8 RGB (B, 3, tile_px, tile_px) on any device to float32 (B, dim) on the encoder's device."""
        check_tiles(tiles, self.tile_px, self.name)
        if not len(tiles):
            return torch.zeros(0, self.dim, device=self.device)
        vectors = self._run(tiles)
        if tuple(vectors.shape) != (len(tiles), self.dim):
            raise HisDiffError(
                f"encoder {self.name!r} returned shape {tuple(vectors.shape)} for {len(tiles)} tiles; its dim is "
                f"{self.dim}, so {(len(tiles), self.dim)} was expected"
            )
        return vectors

    def _vectors(self, tiles: torch.Tensor) -> torch.Tensor:
        """Vectors (B, dim) of tiles on the device."""
        raise NotImplementedError

    def _run(self, tiles: torch.Tensor) -> torch.Tensor:
        """Vectors as float32; running out of GPU memory becomes an error that says what to try."""
        try:
            with torch.inference_mode(), autocast(self.device, self.precision):
                return self._vectors(tiles.to(self.device)).to(self.device, torch.float32)
        except torch.cuda.OutOfMemoryError:
            tried = len(tiles)
        # Raised out here and not in the handler, for what failed holds on to the memory that the next try needs.
        where = f"encoder {self.name!r} ran out of memory on {str(self.device)!r} ({self.precision})"
        if tried > 1:
            raise HisDiffError(f"{where} with a batch of {tried} tiles; try batch_size={tried // 2}")
        raise HisDiffError(f"{where} with a single tile; free memory there, or give a smaller encoder or device='cpu'")
