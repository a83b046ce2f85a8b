"""Where tiles lie, how they are read, which spots are neighbours."""

from hisdiff_sd.tiles._context import Context, nearest
from hisdiff_sd.tiles._protocol import TILE_PX, TileProtocol, best_level, boxes
from hisdiff_sd.tiles._reader import read_tiles, resize

__all__ = ["Context", "nearest", "TILE_PX", "TileProtocol", "best_level", "boxes", "read_tiles", "resize"]
