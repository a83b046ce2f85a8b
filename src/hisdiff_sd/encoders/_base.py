"""What every tile encoder is: a named, fingerprinted function from tiles to vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from hisdiff_sd._errors import HisDiffError


@runtime_checkable
class TileEncoder(Protocol):
    """A function from tile images to vectors. Any object with these attributes can be used as an encoder.

    The vector of a tile does not depend on the other tiles of its batch (to 1e-5 in float32), and calling twice gives
    the same.

    Attributes
    ----------
    name
        What `hd.encoders.load` takes to load it again; used in table names (``spots_<name>``).
    dim
        Length of a tile's vector.
    tile_px
        Side of the square tile that is expected, in pixels.
    fingerprint
        SHA-256 in hex: of the tensors of an encoder with weights, else of its name, version and settings. Two encoders
        of the same fingerprint give the same vectors, up to the precision they compute in.
    licence
        Licence under which the encoder may be used.

    Notes
    -----
    The encoders of this package have two attributes more, which an encoder of your own may leave out: ``device``, the
    `torch.device` it runs on (absent: the CPU), and ``precision``, the ``"fp32"``, ``"bf16"`` or ``"fp16"`` that it
    computes in (absent: ``"fp32"``).

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> encoder = hd.encoders.load("morphology", device="cpu")
    >>> isinstance(encoder, hd.encoders.TileEncoder), encoder.dim, encoder.tile_px
    (True, 162, 224)
    """

    name: str
    dim: int
    tile_px: int
    fingerprint: str
    licence: str

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles: uint8 RGB (B, 3, tile_px, tile_px) on any device to float32 (B, dim) on the encoder's device."""
        ...


def check_tiles(tiles: torch.Tensor, tile_px: int, encoder: str) -> None:
    """Raise unless `tiles` is a batch that an encoder of `tile_px` takes."""
    fits = tiles.ndim == 4 and tuple(tiles.shape[1:]) == (3, tile_px, tile_px)
    if tiles.dtype != torch.uint8 or not fits:
        raise HisDiffError(
            f"encoder {encoder!r} takes uint8 RGB tiles of shape (B, 3, {tile_px}, {tile_px}), got "
            f"{str(tiles.dtype).removeprefix('torch.')} of shape {tuple(tiles.shape)}; resize the tiles and move the "
            "channels first"
        )


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 in hex over the sorted (name, dtype, shape, bytes) of `tensors`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
