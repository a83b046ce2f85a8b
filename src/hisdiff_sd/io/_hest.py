from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, reason
from hisdiff_sd.io import _hest_facts as facts
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._hest_cells import find_cells, read_cells, transcript_points
from hisdiff_sd.io._hest_files import find_slide, needed, part
from hisdiff_sd.io._hest_geometry import declared_geometry
from hisdiff_sd.io._metadata import number, read_metadata, text
from hisdiff_sd.io._outlines import outline_shapes, read_outlines
from hisdiff_sd.io._slide import SlideParts, assemble, check_mpp, transformations_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_ABOUT = {"patient": "patient", "species": "species", "organ": "organ", "dataset": "dataset_title"}
_PIXEL_SIZES = ("pixel_size_um_estimated", "pixel_size_um_embedded")


def hest(
    path: str | Path,
    sample_id: str | None = None,
    *,
    mpp: float | None = None,
    genes: Literal["symbols", "ids", "file"] = "symbols",
    control_probes: bool = False,
    tissue: bool = True,
    cells: bool | Literal["cellvit", "xenium"] = False,
    transcripts: bool = False,
) -> SpatialData:
    """Read one slide of HEST-1k, lazily: Visium, Spatial Transcriptomics, Visium HD or Xenium.

    Parameters
    ----------
    path
        Root of a HEST folder (``wsis/``, ``st/``, ``metadata/``; whatever else HEST has is used where it is there), or a
        folder with the files of a slide, side by side: ``<id>.tif``, ``<id>.h5ad``, ``<id>.json``.
    sample_id
        Id of the slide, such as ``"SPA148"``; may be left out if there is only one.
    mpp
        Micrometres per level-0 pixel. By default ``pixel_size_um_estimated`` of the metadata, the one source HEST
        itself trusts.
    genes
        Names of the genes: ``"symbols"``, where the file has one beside an Ensembl id; ``"ids"``, the other way round; or
        ``"file"``, as they stand there. Genes of one name are added up. What the file does not say stays as it is.
    control_probes
        Keep control probes, marked in ``var["control"]``; they are dropped by default.
    tissue
        Take the outlines of ``tissue_seg/`` where they are there.
    cells
        Take outlines of cells: ``"xenium"`` those of the instrument, as ``cells`` and ``nuclei``; ``"cellvit"`` the nuclei
        that CellViT saw on the H&E image, as ``cells`` with their ``class``; True the first of these that is there.
    transcripts
        Take the transcripts of a Xenium slide, as lazy points ``transcripts``.

    Returns
    -------
    SpatialData with ``he`` (multiscale uint8 image), ``spots`` (circles, level-0 px, indexed by barcode), ``table``
    (raw counts), what else was asked for, and the coordinate systems ``global`` (level-0 px) and ``microns``. No
    full-resolution pixel and no transcript is read.

    Raises
    ------
    MissingFileError
        If the folder, the slide or one of its files is not there.
    HisDiffError
        If the pixel size is unknown, the image is truncated, counts are not raw counts, barcodes are duplicated, or
        counts and image are of different slides.

    Notes
    -----
    Visium HD and Xenium slides have square bins: HEST pools bins of 16 um to 128 um, and sums transcripts in squares of
    100 um. Their ``spots`` are the circles in these squares, so that they are worked with like any others; the attributes
    say ``spot_shape: square``. Their size is what is measured between their centres, because what the metadata say of
    them is blank or wrong.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> hd.io.hest(root, "S1")["spots"].columns.tolist()
    ['radius', 'geometry']
    """
    root = Path(path)
    slide = find_slide(root, sample_id)
    counts_path, image_path = needed(root, slide, "st", "wsis")
    metadata = read_metadata(root, slide)
    technology, geometry = declared_geometry(metadata, slide, root)
    size, size_source = _pixel_size(metadata, mpp, root, slide)
    more = _more(root, slide, technology, cells=cells, transcripts=transcripts)
    counts = _read_h5ad(counts_path)
    xy = _positions(counts, counts_path)
    sdata = assemble(
        SlideParts(
            slide=slide,
            image_path=image_path,
            counts_path=counts_path,
            counts=counts,
            xy=xy,
            mpp=size,
            mpp_source=size_source,
            spot_diameter_um=geometry.diameter_um,
            spot_pitch_um=geometry.pitch_um,
            bins=geometry.bins,
            about={"technology": technology, **{k: text(metadata, v) for k, v in _ABOUT.items()}},
            pixel_sizes={key: said for key in _PIXEL_SIZES if (said := number(metadata, key)) is not None},
            genes=genes,
            control_probes=control_probes,
        )
    )
    facts.check_thumbnail(counts, sdata["table"].uns["spatial"], counts_path, image_path)
    _note_facts(sdata, counts, xy, metadata, root)
    if tissue:
        _add_tissue(sdata, part(root, slide, "tissue_seg"))
    _add(sdata, more)
    return sdata


def _note_facts(sdata: SpatialData, counts: AnnData, xy: pd.DataFrame, metadata: dict[str, Any], root: Path) -> None:
    """Put what the files say of each other into the record of the slide."""
    attrs = sdata.attrs[keys.ATTRS]
    slide, found = attrs["slide"], attrs["qc"]
    cut_at = number(metadata, "pixel_size_um_estimated") or attrs["mpp"]
    found |= facts.size_fact(metadata, attrs["true_size"], slide)
    found |= facts.totals_fact(counts, slide)
    found |= facts.patches_fact(part(root, slide, "patches"), xy, cut_at, slide)


def _more(root: Path, slide: str, technology: str, *, cells: bool | str, transcripts: bool) -> dict[str, Path]:
    """Files of what was asked for besides image and counts, by the name of the element."""
    if transcripts and technology != "Xenium":
        raise HisDiffError(f"slide {slide!r} is of technology {technology!r}; only Xenium slides have transcripts")
    found = find_cells(root, slide, cells) if cells else {}
    if transcripts:
        (found[keys.TRANSCRIPTS],) = needed(root, slide, "transcripts")
    return found


def _add_tissue(sdata: SpatialData, contours: Path) -> None:
    """Add the outlines of the tissue, if there are any."""
    attrs = sdata.attrs[keys.ATTRS]
    if not contours.exists():
        return
    try:
        outlines = read_outlines(contours, *attrs["true_size"])
    except HisDiffError as error:  # others can be drawn; the slide is not worth less
        warnings.warn(
            f"slide {attrs['slide']} has no outlines of tissue: {error}; or draw others with hd.pp.tissue",
            HisDiffWarning,
            stacklevel=3,
        )
    else:
        sdata.shapes[keys.TISSUE] = outline_shapes(outlines, attrs["mpp"], transformations_of(attrs["mpp"]))


def _add(sdata: SpatialData, files: dict[str, Path]) -> None:
    """Add cells and transcripts, and say which files they are from."""
    attrs = sdata.attrs[keys.ATTRS]
    at = transformations_of(attrs["mpp"])
    for name, path in files.items():
        attrs["source"][name] = path.name
        if name == keys.TRANSCRIPTS:
            sdata.points[name] = transcript_points(path, at)
        else:
            sdata.shapes[name] = read_cells(path, at)


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
