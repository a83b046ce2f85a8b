from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._counts import clean_counts
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._image import open_image, true_size
from hisdiff_sd.io._json import read_json
from hisdiff_sd.io._limits import check_rows
from hisdiff_sd.io._metadata import number
from hisdiff_sd.io._pool import Grid, check_pitch
from hisdiff_sd.io._slide import SlideParts, assemble, dress_table, parse_table
from hisdiff_sd.io._xenium_alignment import Alignment

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_CELL_TABLE = f"{keys.CELLS}_counts"
_SPECS = "experiment.xenium"
_FILES = (
    _SPECS,
    "cells.zarr.zip",
    "cells.parquet",
    "cell_boundaries.parquet",
    "cell_feature_matrix.h5",
    "transcripts.parquet",
)
_LEAST_QUALITY = 20  # that of 10x Genomics for its own matrix of cells and genes
_MOST_OUTSIDE = 0.5
_MOST_BYTES = 2**32  # of an array about cells


def xenium(
    path: str | Path,
    he_image: str | Path | None = None,
    alignment: str | Path | np.ndarray | None = None,
    *,
    pitch_um: float = 100.0,
    slide: str | None = None,
    patient: str = "",
    species: str = "",
    organ: str = "",
    genes: Literal["symbols", "ids", "file"] = "symbols",
    control_probes: bool = False,
) -> SpatialData:
    """Read the output of a Xenium run with its H&E image, lazily, with transcripts pooled to pseudo-spots.

    Files are read by `spatialdata_io.xenium`. Transcripts of quality 20 and above are counted in squares of `pitch_um` on the
    H&E image, because a model predicts spots of the size that it was trained at; cells or not, as a Visium spot takes all
    RNA. Squares without the centre of a cell are left out.

    Parameters
    ----------
    path
        The output folder.
    he_image
        The H&E image; by default the file in the folder whose name ends in ``he_image.ome.tif``.
    alignment
        CSV file of Xenium Explorer with the (3, 3) matrix that takes (x, y) in pixels of the H&E image to pixels of the run, or
        that matrix; by default the file beside the image that ends in ``he_imagealignment.csv``. Rotations and mirrored
        images are handled: everything is mapped onto the H&E image, which stays as it is.
    pitch_um
        Side of the squares in um.
    slide
        Id of the slide; the folder's name by default.
    patient, species, organ
        What is known of the slide; kept in its attributes.
    genes, control_probes
        As in `hd.io.hest`.

    Returns
    -------
    SpatialData laid out as that of `hd.io.hest`: ``spots`` are circles of diameter `pitch_um` at the centres of the squares
    (``x0012_y0034`` by column and row), ``table`` their counts. Besides, ``cells`` (outlines in
    level-0 px), ``cells_counts`` (counts of 10x Genomics per cell) and ``transcripts`` (points, lazily, in um with their
    transformations). The pixel size follows from the alignment.

    Raises
    ------
    MissingFileError
        If the folder, the image, the alignment or a file of the run is not there.
    HisDiffError
        If the alignment is sheared or puts the cells outside the image, and as `hd.io.hest`.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> sdata = hd.io.xenium("X1/outs")
    >>> sorted(sdata.tables), sorted(sdata.shapes)
    (['cells_counts', 'table'], ['cells', 'spots'])
    """
    root, pitch = Path(path).resolve(), check_pitch(pitch_um)
    image_path = _check_files(root, he_image)
    aligned = Alignment.of(alignment, image_path, _pixel_size(root / _SPECS))
    image = open_image(image_path)
    run = _read(root)
    _check_inside(aligned.to_image(run.tables["table"].obsm["spatial"]), true_size(image), root)
    grid = Grid.on(true_size(image), pitch / aligned.mpp)
    counts, found = _pooled(run, aligned, grid, root)
    sdata = assemble(
        SlideParts(
            slide=slide or (root.parent.name if root.name == "outs" else root.name),
            image_path=image_path,
            counts_path=root / "transcripts.parquet",
            counts=counts,
            xy=pd.DataFrame(counts.obsm["spatial"], index=counts.obs_names, columns=["x", "y"]),
            mpp=aligned.mpp,
            mpp_source="alignment of the H&E image",
            spot_diameter_um=pitch,
            spot_pitch_um=pitch,
            pitch_known=False,
            bins=True,
            genes=genes,
            control_probes=control_probes,
            about={"technology": "Xenium", "patient": patient, "species": species, "organ": organ},
        )
    )
    sdata.attrs[keys.ATTRS]["qc"] |= found
    matrix = str(root / "cell_feature_matrix.h5")
    of_cells, _ = clean_counts(run.tables["table"], matrix, genes=genes, control_probes=control_probes)
    _add_cells(sdata, run, aligned, of_cells)
    return sdata


def _check_files(root: Path, he_image: str | Path | None) -> Path:
    """The H&E image, if it and all files of the run are there."""
    if not root.is_dir():
        raise MissingFileError(f"no folder {root}; the output folder of a Xenium run is needed")
    inside = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "no files"
    missing = [name for name in _FILES if not (root / name).is_file()]
    if missing:
        raise MissingFileError(f"no {', '.join(missing)} in {root}; copy the whole output folder; there are: {inside}")
    found = [Path(he_image)] if he_image is not None else sorted(root.glob("*he_image.ome.tif"))
    if len(found) != 1:
        what = f"{len(found)} H&E images" if found else "no H&E image (*he_image.ome.tif)"
        raise MissingFileError(f"{what} in {root}; give he_image=; there are: {inside}")
    if not found[0].is_file():
        raise MissingFileError(f"no image {found[0]}; give the H&E image of the run")
    return found[0]


def _pixel_size(path: Path) -> float:
    """Micrometres per pixel of the run, not of the H&E image."""
    specs = read_json(path)
    size = number(specs, "pixel_size") if isinstance(specs, dict) else None
    if size is None:
        raise HisDiffError(f"{path} has no pixel_size; copy it again")
    return size


def _check_sizes(root: Path) -> None:
    """Refuse files that claim more than memory holds, before they are read."""
    import zarr

    check_hdf5(root / "cell_feature_matrix.h5")
    for name in ("cells.parquet", "cell_boundaries.parquet"):
        check_rows(root / name)
    check_rows(root / "transcripts.parquet", by_part=True)
    path = root / "cells.zarr.zip"
    try:
        with zarr.storage.ZipStore(path, read_only=True) as store:
            arrays = dict(zarr.open_group(store, mode="r").members(max_depth=None))
    except Exception as error:
        raise HisDiffError(f"{path} cannot be read as a zarr store ({reason(error)}); copy it again") from error
    # masks are larger, and are not read
    for name, array in arrays.items():
        if isinstance(array, zarr.Array) and not name.startswith("masks") and array.nbytes > _MOST_BYTES:
            raise HisDiffError(f"{path}: {name!r} claims {array.nbytes / 2**30:,.0f} GiB; copy it again")


def _read(root: Path) -> SpatialData:
    """Cells, their outlines and transcripts, in um; no image and no mask."""
    import spatialdata_io

    _check_sizes(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return spatialdata_io.xenium(
                root,
                nucleus_boundaries=False,
                cells_labels=False,
                nucleus_labels=False,
                morphology_mip=False,
                morphology_focus=False,
                aligned_images=False,
            )
    except Exception as error:  # damaged files fail in many ways
        raise HisDiffError(f"{root} cannot be read as Xenium output ({reason(error)}); copy it again") from error


def _check_inside(cells: np.ndarray, size: tuple[int, int], root: Path) -> None:
    """Refuse an alignment that puts most cells, at (x, y) in level-0 px, beside the image of (height, width)."""
    outside = int(((cells < 0) | (cells >= size[::-1])).any(1).sum())
    if outside > _MOST_OUTSIDE * len(cells):
        raise HisDiffError(
            f"{outside} of {len(cells)} cells of {root} lie outside the H&E image: the alignment is that of another image, or "
            "the inverse is meant (it takes pixels of the H&E image to pixels of the run)"
        )


def _pooled(run: SpatialData, aligned: Alignment, grid: Grid, root: Path) -> tuple[AnnData, dict[str, int]]:
    """Counts of the squares that hold a cell, and how many transcripts were left out."""
    from anndata import AnnData

    names = run.tables["table"].var_names
    features = run.points[keys.TRANSCRIPTS]["feature_name"].cat.categories
    genes = [*dict.fromkeys(names), *sorted(set(map(str, features)) - set(names))]
    cells = grid.square(aligned.to_image(run.tables["table"].obsm["spatial"]))
    counts, found = grid.empty(len(genes)), {"transcripts_low_quality": 0, "transcripts_outside": 0}
    for part in run.points[keys.TRANSCRIPTS].partitions:
        try:
            frame = part[["x", "y", "feature_name", "qv"]].compute()
        except Exception as error:
            raise HisDiffError(
                f"{root / 'transcripts.parquet'} cannot be read ({reason(error)}); copy it again"
            ) from error
        squares = grid.square(aligned.to_image(frame[["x", "y"]].to_numpy(np.float64)))
        names_here = frame["feature_name"].cat
        gene = pd.Index(genes).get_indexer(names_here.categories.astype(str))[names_here.codes]
        good = frame["qv"].to_numpy() >= _LEAST_QUALITY
        found["transcripts_low_quality"] += int((~good).sum())
        found["transcripts_outside"] += int((good & (squares < 0)).sum())
        good &= (squares >= 0) & (names_here.codes.to_numpy() >= 0)
        counts = counts + grid.count(squares[good], gene[good], len(genes))
    kept = np.unique(cells[cells >= 0])
    table = AnnData(
        counts[kept],
        obs=pd.DataFrame({"n_cells": np.bincount(cells[cells >= 0])[kept]}, index=grid.names(kept)),
        var=run.tables["table"].var[["gene_ids"]].groupby(level=0).first().reindex(genes).fillna(""),
        obsm={"spatial": grid.centres(kept)},
    )
    return table, found


def _add_cells(sdata: SpatialData, run: SpatialData, aligned: Alignment, table: AnnData) -> None:
    """Outlines of the cells, their counts and the transcripts, on the H&E image."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Affine, get_transformation, set_transformation

    outlines = run.shapes["cell_boundaries"].geometry.affine_transform(aligned.flat)
    frame = GeoDataFrame(geometry=outlines.to_numpy(), index=pd.Index(outlines.index.astype(str), name=None))
    transformations = get_transformation(sdata.shapes[keys.SPOTS], get_all=True)
    sdata.shapes[keys.CELLS] = ShapesModel.parse(frame, transformations=transformations)
    table.obs = table.obs.drop(columns=["cell_id", "region"], errors="ignore")
    xy = aligned.to_image(run.tables["table"].obsm["spatial"])
    dress_table(table, keys.CELLS, xy, sdata.tables[keys.TABLE].uns["spatial"])
    sdata.tables[_CELL_TABLE] = parse_table(table, keys.CELLS)
    points = run.points[keys.TRANSCRIPTS]
    both = {"global": aligned.matrix, "microns": np.diag([aligned.mpp, aligned.mpp, 1]) @ aligned.matrix}
    steps = {name: Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")) for name, matrix in both.items()}
    set_transformation(points, steps, set_all=True)
    sdata.points[keys.TRANSCRIPTS] = points
