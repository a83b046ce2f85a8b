"""Which square of a slide belongs to a spot."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.tiles._plan import PADDINGS

#: Side that encoders of the table expect, and the least side of a published tile, in pixels.
TILE_PX = 224
_NEAREST_UM = 1.0


@dataclass(frozen=True)
class TileProtocol:
    """How tiles are cut: as HisDiff was published, or of one physical size.

    Attributes
    ----------
    tile_um
        Side of a tile in um; None is the published protocol: max(224, 2 * floor(spot diameter / 2)) level-0 px, whatever
        those measure.
    padding
        What lies outside the slide: ``"black"`` (as published), ``"white"`` or ``"reflect"``.

    Examples
    --------
    >>> from hisdiff_sd.tiles import TileProtocol
    >>> TileProtocol(112.0).name, TileProtocol.parse("hisdiff").tile_um, TileProtocol(112.0, "reflect").name
    ('112um', None, '112um+reflect')
    """

    tile_um: float | None = None
    padding: str = "black"

    def __post_init__(self) -> None:
        check_one_of(self.padding, PADDINGS, "padding")
        if self.tile_um is not None and not (np.isfinite(self.tile_um) and self.tile_um >= _NEAREST_UM):
            raise HisDiffError(f"tile_um={self.tile_um} is no tile size; micrometres are needed, such as 112")

    @property
    def name(self) -> str:
        """Name as it stands in provenance, ``"hisdiff"`` or such as ``"112um"``, the padding behind it if it is not black."""
        # all digits, so that `parse` gives the same protocol back
        size = (
            "hisdiff" if self.tile_um is None else f"{float(self.tile_um)!r}".removesuffix(".0").replace("+", "") + "um"
        )
        return size if self.padding == "black" else f"{size}+{self.padding}"

    @property
    def resize_filter(self) -> str:
        """Filter that brings a tile to the encoder's size, Lanczos as published, else antialiased bicubic."""
        return "lanczos" if self.tile_um is None else "bicubic"

    @classmethod
    def parse(cls, name: str) -> TileProtocol:
        """Protocol of a name that `name` gave."""
        size, _, padding = name.partition("+")
        if size == "hisdiff":
            return cls(None, padding or "black")
        match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)um", size)
        if match is None:
            raise HisDiffError(f"no tile protocol {name!r}; there are: 'hisdiff' and a size such as '112um'")
        return cls(float(match[1]), padding or "black")

    def side_px(self, spot_diameter_px: float, mpp: float) -> float:
        """Side of a tile in level-0 px (a whole number for the published protocol)."""
        if self.tile_um is None:
            return float(max(TILE_PX, 2 * int(spot_diameter_px / 2)))
        return self.tile_um / mpp

    def record(self, spot_diameter_px: float, mpp: float) -> dict[str, str | float]:
        """What provenance says of the tiles of a slide."""
        return {
            "tile": self.name,
            "tile_side_px": self.side_px(spot_diameter_px, mpp),
            "padding": self.padding,
            "filter": self.resize_filter,
        }


def boxes(xy: np.ndarray, side: float, downsample: int = 1) -> tuple[np.ndarray, int]:
    """Whole-pixel squares around spot centres on a pyramid level.

    Parameters
    ----------
    xy
        (n, 2) spot centres (x, y) in level-0 px.
    side
        Side in level-0 px.
    downsample
        Level-0 px per pixel of the level.

    Returns
    -------
    (n, 2) int64 top-left corners (x, y) and the side, in pixels of the level.

    Examples
    --------
    >>> from hisdiff_sd.tiles import boxes
    >>> corners, side = boxes(np.array([[300.0, 400.0]]), 224)
    >>> corners.tolist(), side
    ([[188, 288]], 224)
    """
    side_px = max(1, round(side / downsample))
    # truncated as the published code does, so that the same pixels are seen
    corner = np.floor(np.asarray(xy, np.float64) / downsample).astype(np.int64) - side_px // 2
    return corner, side_px


def best_level(side: float, n_levels: int) -> int:
    """Coarsest level of a x2 pyramid on which a tile of `side` level-0 px still has the encoder's resolution.

    Examples
    --------
    >>> from hisdiff_sd.tiles import best_level
    >>> best_level(448, n_levels=4), best_level(224, n_levels=4)
    (1, 0)
    """
    level = 0
    while level + 1 < n_levels and side / 2 ** (level + 1) >= TILE_PX:
        level += 1
    return level
