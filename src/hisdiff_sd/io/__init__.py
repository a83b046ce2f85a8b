"""Slides in, stores out."""

from hisdiff_sd.io._hest import hest
from hisdiff_sd.io._open import open
from hisdiff_sd.io._qc import qc
from hisdiff_sd.io._qc_table import qc_table
from hisdiff_sd.io._store import write
from hisdiff_sd.io._visium import visium
from hisdiff_sd.io._wsi import wsi

__all__ = ["hest", "visium", "wsi", "open", "write", "qc", "qc_table"]
