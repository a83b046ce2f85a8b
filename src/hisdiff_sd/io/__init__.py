"""Slides in, stores out."""

from hisdiff_sd.io._adopt import adopt
from hisdiff_sd.io._check import check
from hisdiff_sd.io._convert import convert
from hisdiff_sd.io._download import download
from hisdiff_sd.io._hest import hest
from hisdiff_sd.io._hest_samples import hest_samples
from hisdiff_sd.io._open import open
from hisdiff_sd.io._qc import qc
from hisdiff_sd.io._qc_table import qc_table
from hisdiff_sd.io._store import write
from hisdiff_sd.io._to_anndata import to_anndata
from hisdiff_sd.io._visium import visium
from hisdiff_sd.io._visium_hd import visium_hd
from hisdiff_sd.io._wsi import wsi
from hisdiff_sd.io._xenium import xenium

__all__ = [
    "download",
    "hest",
    "hest_samples",
    "visium",
    "visium_hd",
    "xenium",
    "wsi",
    "adopt",
    "convert",
    "write",
    "open",
    "check",
    "qc",
    "qc_table",
    "to_anndata",
]
