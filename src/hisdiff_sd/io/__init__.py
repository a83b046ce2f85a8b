"""Slides in, stores out."""

from hisdiff_sd.io._adopt import adopt
from hisdiff_sd.io._hest import hest
from hisdiff_sd.io._open import open
from hisdiff_sd.io._store import write
from hisdiff_sd.io._visium import visium
from hisdiff_sd.io._visium_hd import visium_hd
from hisdiff_sd.io._wsi import wsi
from hisdiff_sd.io._xenium import xenium

__all__ = ["hest", "visium", "visium_hd", "xenium", "wsi", "adopt", "open", "write"]
