"""Slides in, stores out."""

from hisdiff_sd.io._check import check
from hisdiff_sd.io._hest import hest
from hisdiff_sd.io._hest_samples import hest_samples
from hisdiff_sd.io._open import open
from hisdiff_sd.io._store import write
from hisdiff_sd.io._visium import visium
from hisdiff_sd.io._wsi import wsi

__all__ = ["hest", "hest_samples", "visium", "wsi", "open", "write", "check"]
