"""A network with weights as an encoder: normalisation, the model, pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._compute import DeviceEncoder
from hisdiff_sd.encoders._rows import EncoderRow

# From the tokens (B, prefix + patches, width) and the number of prefix tokens (CLS and registers) to (B, dim).
POOLINGS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "cls": lambda tokens, prefix: tokens[:, 0],
    "mean": lambda tokens, prefix: tokens[:, prefix:].mean(1),
    "cls+mean": lambda tokens, prefix: torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1),
}


class ModelEncoder(DeviceEncoder):
    """A model with weights, on a device.

    Parameters
    ----------
    row
        What it is called, what it takes and how its tokens are pooled.
    model
        The model, with its weights; it is moved to the device.
    fingerprint
        SHA-256 of its tensors.
    device, precision
        Where and in what it computes.
    compile
        Whether to compile it with `torch.compile`: the first batch takes a minute, the others are quicker.
    """

    def __init__(
        self,
        row: EncoderRow,
        model: torch.nn.Module,
        fingerprint: str,
        *,
        device: torch.device,
        precision: str,
        compile: bool,
    ) -> None:
        super().__init__(device, precision)
        self.name, self.tile_px, self.licence, self.fingerprint = row.name, row.tile_px, row.licence, fingerprint
        network = _Network(model, row).to(device).eval().requires_grad_(False)
        self._network: Callable[[torch.Tensor], torch.Tensor] = network
        self.dim = row.dim or self._ask_dim()
        if compile:
            self._network = torch.compile(network)

    def _vectors(self, tiles: torch.Tensor) -> torch.Tensor:
        return self._network(tiles)

    def _ask_dim(self) -> int:
        """Length of the vector of a black tile."""
        vectors = self._run(torch.zeros(1, 3, self.tile_px, self.tile_px, dtype=torch.uint8))
        if vectors.ndim != 2:
            raise HisDiffError(
                f"model {self.name!r} makes shape {tuple(vectors.shape)} of a tile, not one vector; pool it in a function "
                "of your own and give that to hd.encoders.from_callable"
            )
        return vectors.shape[1]


class _Network(torch.nn.Module):
    """From uint8 tiles to vectors, as one module, so that all of it can be compiled."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: torch.nn.Module, row: EncoderRow) -> None:
        super().__init__()
        self.model = model
        self._pool = POOLINGS.get(row.pooling)
        self._tokens = _tokens_function(row)
        for name, values in (("mean", row.mean), ("std", row.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        pixels = tiles.float().div_(255).sub_(self.mean).div_(self.std)
        if self._pool is None:
            return self.model(pixels)
        return self._pool(*self._tokens(self.model, pixels))


def _tokens_function(row: EncoderRow) -> Callable[[Any, torch.Tensor], tuple[torch.Tensor, int]]:
    """Function of (model, pixels) that gives the tokens and how many of them are no patches."""
    if row.loader == "transformers":
        return lambda model, pixels: (model(pixel_values=pixels).last_hidden_state, 1)
    if row.timm_args.get("features_only"):
        return lambda model, pixels: (model(pixels)[0].flatten(2).transpose(1, 2), 0)
    return lambda model, pixels: (model.forward_features(pixels), model.num_prefix_tokens)
