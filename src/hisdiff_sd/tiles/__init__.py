"""Where tiles lie, how they are read, which spots are neighbours."""

from hisdiff_sd.tiles._context import Context, nearest, within
from hisdiff_sd.tiles._files import open_levels
from hisdiff_sd.tiles._lattice import GRIDS, grid_points, lattice_context
from hisdiff_sd.tiles._loader import load_tiles
from hisdiff_sd.tiles._plan import PADDINGS, TilePlan, plan_tiles
from hisdiff_sd.tiles._protocol import TILE_PX, TileProtocol, best_level, boxes
from hisdiff_sd.tiles._reader import TileBatch, read_tiles
from hisdiff_sd.tiles._resize import resize
from hisdiff_sd.tiles._source import DaskSource, TileSource, Windows, ZarrSource, source_of

__all__ = [
    "Context",
    "nearest",
    "within",
    "GRIDS",
    "grid_points",
    "lattice_context",
    "open_levels",
    "load_tiles",
    "PADDINGS",
    "TilePlan",
    "plan_tiles",
    "TILE_PX",
    "TileProtocol",
    "best_level",
    "boxes",
    "TileBatch",
    "read_tiles",
    "resize",
    "DaskSource",
    "TileSource",
    "Windows",
    "ZarrSource",
    "source_of",
]
