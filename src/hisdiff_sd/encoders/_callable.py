from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._base import fingerprint_tensors
from hisdiff_sd.encoders._compute import DeviceEncoder
from hisdiff_sd.encoders._generic import HUB_PREFIXES
from hisdiff_sd.encoders._rows import ENCODERS


class CallableEncoder(DeviceEncoder):
    """A function or torch module as an encoder; see `from_callable`."""

    def __init__(
        self, function: Callable[[torch.Tensor], Any], name: str, dim: int, tile_px: int, fingerprint: str, licence: str
    ) -> None:
        tensors = _tensors(function)
        super().__init__(next((t.device for t in tensors.values()), torch.device("cpu")))
        self.name, self.dim, self.tile_px, self.fingerprint, self.licence = name, dim, tile_px, fingerprint, licence
        self._function = function

    def _vectors(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._function(tiles))


def from_callable(
    function: Callable[[torch.Tensor], Any],
    *,
    name: str,
    dim: int,
    tile_px: int = 224,
    fingerprint: str | None = None,
    licence: str = "unknown",
) -> CallableEncoder:
    """Make an encoder of a function or torch module.

    Parameters
    ----------
    function
        Takes uint8 RGB tiles of shape (B, 3, `tile_px`, `tile_px`), does its own normalisation, and returns a tensor or
        array of shape (B, `dim`). A torch module is put into evaluation mode and gets its tiles on the device of its
        tensors; any other function gets them on the CPU. It runs without gradients.
    name
        Of the encoder, used in table names (``spots_<name>``). A model that is trained on its vectors asks for the name
        again, so it must not be that of another encoder.
    dim
        Length of a vector.
    tile_px
        Side of the tiles in pixels.
    fingerprint
        Text that changes whenever the vectors do, such as ``"stains 2"``: vectors that are stored under another
        fingerprint are refused. By default, for a torch module with weights, the SHA-256 of its tensors; what the
        module computes with them is not seen, so give a fingerprint where the code changes and the weights do not.
        A function without weights needs one, for its code cannot be hashed faithfully.
    licence
        Licence under which the vectors may be used.

    Returns
    -------
    An encoder, to be given to `hd.pp.embed` and `hd.tl.train`.

    Raises
    ------
    HisDiffError
        If the name is taken, or no fingerprint is given for a function without weights.

    Examples
    --------
    >>> import torch, hisdiff_sd as hd
    >>> def mean_rgb(tiles):
    ...     return tiles.float().mean((2, 3))
    >>> encoder = hd.encoders.from_callable(mean_rgb, name="mean_rgb", dim=3, fingerprint="1")
    >>> encoder(torch.full((2, 3, 224, 224), 7, dtype=torch.uint8))
    tensor([[7., 7., 7.],
            [7., 7., 7.]])
    """
    if not name or name in ENCODERS or name.startswith(HUB_PREFIXES):
        raise HisDiffError(f"the name {name!r} is that of another encoder or of none; give a name of its own")
    if dim < 1 or tile_px < 1:
        raise HisDiffError(f"encoder {name!r}: dim={dim} and tile_px={tile_px} must be positive")
    if isinstance(function, torch.nn.Module):
        function.eval()
    if not fingerprint:
        tensors = _tensors(function)
        if not tensors:
            raise HisDiffError(
                f"encoder {name!r} has no weights to tell it from another version of itself; give fingerprint=, a text "
                "that you change whenever its vectors change, such as '1'"
            )
        fingerprint = fingerprint_tensors(tensors)
    return CallableEncoder(function, name, dim, tile_px, fingerprint, licence)


def _tensors(function: object) -> dict[str, torch.Tensor]:
    """Tensors of a torch module; none of any other function."""
    return function.state_dict() if isinstance(function, torch.nn.Module) else {}
