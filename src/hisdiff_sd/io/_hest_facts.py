"""What the files of a HEST slide say of each other: recorded with the slide, and said where it matters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr

from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._metadata import number

if TYPE_CHECKING:
    from anndata import AnnData

_THUMBNAIL_AGREEMENT = 0.9
_PATCH_UM_PER_PX = 0.5  # HEST cuts all patches at this scale
_MOVED = 0.1  # sides of a patch
_FEW = 0.05
_TOTALS_AGREE = 0.01


def size_fact(metadata: dict[str, Any], true_size: Sequence[int], slide: str) -> dict[str, Any]:
    """The size that the metadata say the image has, where it has another one."""
    said = [number(metadata, f"fullres_px_{side}") for side in ("height", "width")]
    if None in said or [int(side or 0) for side in said] == list(true_size):
        return {}
    height, width = (int(side or 0) for side in said)
    _warn(
        f"slide {slide}: the image is {true_size[1]} x {true_size[0]} px large, the metadata say {width} x {height}; if it "
        "was scaled, the spots lie elsewhere: fetch the image again"
    )
    return {"declared_size": [height, width]}


def totals_fact(counts: AnnData, slide: str) -> dict[str, Any]:
    """How many spots have another total than the one noted beside the counts; None where that is not there.

    Pooling in small integers, as for bins of Visium HD, would show here.
    """
    if "total_counts" not in counts.obs:
        return {"totals_differ": None}
    totals = np.asarray(counts.X.sum(axis=1, dtype=np.float64)).ravel()
    noted = pd.to_numeric(counts.obs["total_counts"], errors="coerce").to_numpy(np.float64)
    differ = int((np.abs(noted - totals) > _TOTALS_AGREE * np.maximum(totals, 1)).sum())
    if differ:
        _warn(
            f"slide {slide}: {differ} of {len(noted)} spots have other counts in total than obs['total_counts'] says: genes "
            "may have been dropped, or counts cut off when bins were pooled"
        )
    return {"totals_differ": differ}


def patches_fact(path: Path, xy: pd.DataFrame, mpp: float, slide: str) -> dict[str, Any]:
    """How the patches that HEST cut around the spots lie to these.

    Parameters
    ----------
    path
        ``patches/<id>.h5``; nothing is said if it is not there.
    xy
        Spot centres in level-0 px, indexed by barcode.
    mpp
        Micrometres per level-0 px as HEST believes it.
    slide
        For messages.

    Returns
    -------
    Under ``"patches"``: their side in px, how many were compared, how many have a barcode that no spot has, how many lie
    elsewhere (by more than a tenth of their side), and how far off they are in the middle, in um.
    """
    if not path.exists():
        return {}
    try:
        px, corners, barcodes = _read_patches(path)
    except (HisDiffError, OSError, KeyError, ValueError, AttributeError, IndexError) as error:
        _warn(f"slide {slide}: {path} cannot be read as patches ({error}), so they were not compared with the spots")
        return {}
    rows = pd.Index(xy.index.astype(str)).get_indexer(pd.Index(barcodes))
    known = rows >= 0
    side = px * _PATCH_UM_PER_PX / mpp
    off = np.linalg.norm(xy.to_numpy(np.float64)[rows[known]] - corners[known] - side / 2, axis=1)
    moved, unknown = int((off > _MOVED * side).sum()), int((~known).sum())
    middle = float(np.median(off)) * mpp if len(off) else 0.0
    if moved > _FEW * max(len(off), 1):
        _warn(
            f"slide {slide}: {moved} of {len(off)} patches in {path} do not lie on their spots (in the middle {middle:.0f} um "
            "off): patches and counts are of different versions, or the pixel size has changed"
        )
    if unknown > _FEW * len(barcodes):
        _warn(f"slide {slide}: {unknown} of {len(barcodes)} patches in {path} have a barcode that no spot has")
    return {
        "patches": {
            "px": px,
            "compared": len(off),
            "unknown": unknown,
            "moved": moved,
            "median_off_um": round(middle, 2),
        }
    }


def check_thumbnail(counts: AnnData, drawn: dict[str, Any], counts_path: Path, image_path: Path) -> None:
    """HEST keeps a small image beside the counts: another slide's image does not look like it."""
    from PIL import Image

    stored: Any = counts.uns
    for key in ("spatial", "ST", "images", "downscaled_fullres"):
        stored = stored.get(key) if isinstance(stored, Mapping) else None
    if (
        np.ndim(stored) != 3
        or np.shape(stored)[2] not in (3, 4)
        or not np.size(stored)
        or stored.dtype.kind not in "uif"
    ):
        return  # none, or no image
    (library,) = drawn.values()
    stored = np.asarray(stored)
    if stored.dtype.kind == "f" and stored.max() <= 1:  # as matplotlib reads images
        stored = stored * 255
    pair = [
        np.asarray(Image.fromarray(image.astype(np.uint8)).convert("L").resize((96, 96)), np.float64).ravel()
        for image in (stored, library["images"]["hires"])
    ]
    if min(p.std() for p in pair) == 0:
        return
    agreement = float(pearsonr(*pair).statistic)
    if agreement < _THUMBNAIL_AGREEMENT:
        raise HisDiffError(
            f"counts and image seem to be of different slides: the small image in {counts_path} does not look like "
            f"{image_path} (correlation {agreement:.2f})"
        )


def _read_patches(path: Path) -> tuple[int, np.ndarray, list[str]]:
    """Side of the patches in px, their corners (x, y) in level-0 px, their barcodes; no pixel is read."""
    import h5py

    check_hdf5(path)
    with h5py.File(path) as file:
        px, corners = int(file["img"].shape[1]), np.asarray(file["coords"], np.float64)
        barcodes = [b.decode() if isinstance(b, bytes) else str(b) for b in np.asarray(file["barcode"]).ravel()]
    if corners.shape != (len(barcodes), 2):
        raise ValueError(f"{len(barcodes)} barcodes, corners of shape {corners.shape}")
    return px, corners, barcodes


def _warn(message: str) -> None:
    warnings.warn(message, HisDiffWarning, stacklevel=5)  # where hd.io.hest was called
