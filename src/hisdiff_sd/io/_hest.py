from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._metadata import number, read_metadata, sample_ids
from hisdiff_sd.io._slide import SlideParts, assemble, check_mpp

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

# spot diameter and pitch in um, for slides whose metadata leave them blank
_GEOMETRY = {"Visium": (55.0, 100.0), "Spatial Transcriptomics": (100.0, 200.0)}
_THUMBNAIL_AGREEMENT = 0.9


def hest(path: str | Path, sample_id: str, *, mpp: float | None = None) -> SpatialData:
    """Read one Visium or Spatial Transcriptomics slide of HEST-1k, lazily.

    Parameters
    ----------
    path
        Root of a HEST folder: ``wsis/``, ``st/``, ``metadata/``.
    sample_id
        Id of the slide, such as ``"SPA148"``.
    mpp
        Micrometres per level-0 pixel. By default ``pixel_size_um_estimated`` of the metadata, the one source HEST
        itself trusts.

    Returns
    -------
    SpatialData with ``he`` (multiscale uint8 image), ``spots`` (circles, level-0 px, indexed by barcode), ``table``
    (raw counts) and the coordinate systems ``global`` (level-0 px) and ``microns``. No full-resolution pixel is read.

    Raises
    ------
    MissingFileError
        If the folder, the slide or one of its files is not there.
    HisDiffError
        If the pixel size is unknown, the image is truncated, counts are not raw counts, barcodes are duplicated, or
        counts and image are of different slides.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> hd.io.hest(root, "S1")["spots"].columns.tolist()
    ['radius', 'geometry']
    """
    root = Path(path)
    counts_path, image_path = _files(root, sample_id)
    metadata = read_metadata(root, sample_id)
    technology = str(metadata.get("st_technology", ""))
    if technology not in _GEOMETRY:
        raise HisDiffError(
            f"slide {sample_id!r} is of technology {technology or 'unknown'!r} (st_technology in the metadata of {root}); "
            f"slides that can be read are of: {', '.join(_GEOMETRY)}"
        )
    diameter, pitch = _GEOMETRY[technology]
    mpp, mpp_source = _pixel_size(metadata, mpp, root, sample_id)
    counts = _read_h5ad(counts_path)
    sdata = assemble(
        SlideParts(
            slide=sample_id,
            image_path=image_path,
            counts_path=counts_path,
            counts=counts,
            xy=_positions(counts, counts_path),
            mpp=mpp,
            mpp_source=mpp_source,
            spot_diameter_um=number(metadata, "spot_diameter") or diameter,
            spot_pitch_um=number(metadata, "inter_spot_dist") or pitch,
            about={
                "patient": str(metadata.get("patient", "")),
                "species": str(metadata.get("species", "")),
                "organ": str(metadata.get("organ", "")),
                "dataset": str(metadata.get("dataset_title", "")),
                "technology": technology,
            },
        )
    )
    _check_thumbnail(counts, sdata["table"].uns["spatial"], counts_path, image_path)
    return sdata


def _files(root: Path, sample_id: str) -> tuple[Path, Path]:
    if not root.is_dir():
        raise MissingFileError(f"no folder {root}; a HEST root has the folders wsis/, st/ and metadata/")
    ids = sample_ids(root)
    if sample_id not in ids:
        near = difflib.get_close_matches(sample_id, ids, n=1)
        listed = ", ".join(ids[:20]) + (f" ... ({len(ids)} in all)" if len(ids) > 20 else "")
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise MissingFileError(f"no slide {sample_id!r} in {root}; there are: {listed or 'none'}.{hint}")
    counts, image = root / "st" / f"{sample_id}.h5ad", root / "wsis" / f"{sample_id}.tif"
    for file, what in ((counts, "counts"), (image, "H&E image")):
        if not file.exists():
            raise MissingFileError(f"slide {sample_id!r} has no {what}: {file} is missing; fetch it")
    return counts, image


def _pixel_size(metadata: dict[str, Any], mpp: float | None, root: Path, sample_id: str) -> tuple[float, str]:
    if mpp is not None:
        return check_mpp(mpp), "given"
    estimated = number(metadata, "pixel_size_um_estimated")
    if estimated is None:
        raise HisDiffError(
            f"slide {sample_id!r} has no pixel size: pixel_size_um_estimated is blank in the metadata of {root}; "
            "give mpp= (micrometres per level-0 px)"
        )
    return check_mpp(estimated), "pixel_size_um_estimated"


def _read_h5ad(path: Path) -> AnnData:
    import anndata

    check_hdf5(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*names are not unique")  # clean_counts has more to say of them
            return anndata.read_h5ad(path)
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as an h5ad file ({reason(error)}); fetch it again") from error


def _positions(counts: AnnData, path: Path) -> pd.DataFrame:
    """Spot centres (x, y) in level-0 px, indexed by barcode."""
    if "spatial" not in counts.obsm:
        raise HisDiffError(f"{path} has no obsm['spatial']: where the spots lie is not known; fetch it again")
    xy = np.asarray(counts.obsm["spatial"])
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise HisDiffError(f"obsm['spatial'] of {path} has shape {xy.shape}; x and y of every spot are needed")
    return pd.DataFrame(xy[:, :2], index=counts.obs_names, columns=["x", "y"])


def _check_thumbnail(counts: AnnData, drawn: dict[str, Any], counts_path: Path, image_path: Path) -> None:
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
