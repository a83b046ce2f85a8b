"""Slides in, stores out."""

from hisdiff_sd.io._hest import hest
from hisdiff_sd.io._open import open
from hisdiff_sd.io._store import write
from hisdiff_sd.io._to_anndata import to_anndata
from hisdiff_sd.io._visium import visium
from hisdiff_sd.io._wsi import wsi

__all__ = ["hest", "visium", "wsi", "open", "write", "to_anndata"]
