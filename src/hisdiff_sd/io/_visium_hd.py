from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._json import read_json
from hisdiff_sd.io._limits import check_rows
from hisdiff_sd.io._metadata import number
from hisdiff_sd.io._pool import Squares, check_pitch
from hisdiff_sd.io._slide import SlideParts, assemble, check_mpp, check_positions

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_COUNTS, _POSITIONS, _SCALEFACTORS = (
    "filtered_feature_bc_matrix.h5",
    "spatial/tissue_positions.parquet",
    "spatial/scalefactors_json.json",
)
_COLUMNS = ("barcode", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
# a square with less of its bins under tissue has the counts of a part of its area only
_LEAST_SHARE = 0.5


def visium_hd(
    path: str | Path,
    image: str | Path,
    *,
    pitch_um: float = 128.0,
    bin_um: int | None = None,
    slide: str | None = None,
    mpp: float | None = None,
    patient: str = "",
    species: str = "",
    organ: str = "",
    genes: Literal["symbols", "ids", "file"] = "symbols",
    control_probes: bool = False,
) -> SpatialData:
    """Read Space Ranger output of one Visium HD slide, lazily, with its bins pooled to pseudo-spots.

    Counts of so many neighbouring bins are summed that squares of `pitch_um` result: a model predicts spots of the size that
    it was trained at, 100 to 200 um, and a bin of 2 to 16 um holds few counts. Barcodes are joined by name.

    Parameters
    ----------
    path
        The ``outs`` folder or its ``binned_outputs``: folders ``square_<um>um`` with ``filtered_feature_bc_matrix.h5`` and
        ``spatial/``.
    image
        The full-resolution H&E image that was given to Space Ranger (TIFF, BTF, PNG or JPEG).
    pitch_um
        Side of the squares; a multiple of `bin_um`. That of the bins leaves them as they are.
    bin_um
        Side of the bins to take; by default the largest of those in the folder that `pitch_um` is a multiple of.
    slide
        Id of the slide; the folder's name by default.
    mpp
        Micrometres per level-0 pixel; by default ``microns_per_pixel`` of Space Ranger.
    patient, species, organ
        What is known of the slide; kept in its attributes.
    genes, control_probes
        As in `hd.io.hest`.

    Returns
    -------
    SpatialData laid out as that of `hd.io.hest`: ``spots`` are circles of diameter `pitch_um` at the centres of the squares,
    named by their place in the array of bins (``x0012_y0034``). ``table.obs["n_bins"]`` says how many bins under tissue were
    summed; squares with less than half of their bins under tissue are left out.

    Raises
    ------
    MissingFileError
        If the folder, bins of that size, the counts or the image are not there.
    HisDiffError
        If `pitch_um` is no multiple of the bins, and as `hd.io.hest`.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> sdata = hd.io.visium_hd("H1/outs", "section.btf", pitch_um=64)
    >>> int(sdata["table"].obs["n_bins"].max())  # 4 x 4 bins of 16 um
    16
    """
    root, image_path, pitch = Path(path).resolve(), Path(image), check_pitch(pitch_um)
    if not image_path.is_file():
        raise MissingFileError(
            f"no image {image_path}; give the full-resolution H&E image that Space Ranger was run with"
        )
    folder, side = _choose(_found(root), pitch, bin_um, root)
    size, source = (_pixel_size(folder), "microns_per_pixel") if mpp is None else (check_mpp(mpp), "given")
    counts, xy = _pooled(folder, side)
    outs = root.parent if root.name == "binned_outputs" else root
    return assemble(
        SlideParts(
            slide=slide or (outs.parent.name if outs.name == "outs" else outs.name),
            image_path=image_path,
            counts_path=folder / _COUNTS,
            counts=counts,
            xy=xy,
            mpp=size,
            mpp_source=source,
            spot_diameter_um=pitch,
            spot_pitch_um=pitch,
            bins=True,
            genes=genes,
            control_probes=control_probes,
            about={"technology": "Visium HD", "patient": patient, "species": species, "organ": organ},
        )
    )


def _found(root: Path) -> dict[int, Path]:
    """Folders of bins that are there, by the side of the bins in um."""
    if not root.is_dir():
        raise MissingFileError(f"no folder {root}; the outs folder of Space Ranger is needed")
    inner = root / "binned_outputs"
    folders = sorted((inner if inner.is_dir() else root).glob("square_*um"))
    sizes = {int(m[1]): p for p in folders if p.is_dir() and (m := re.fullmatch(r"square_(\d{3,6})um", p.name))}
    sizes.pop(0, None)
    if not sizes:
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:10])
        raise MissingFileError(
            f"no folders square_<um>um in {root} or its binned_outputs; there are: {inside or 'no files'}"
        )
    return sizes


def _choose(found: dict[int, Path], pitch_um: float, bin_um: int | None, root: Path) -> tuple[Path, int]:
    """The bins to pool, those asked for or the largest that fill a square exactly, and how many make its side."""
    listed = ", ".join(f"{um}" for um in found)
    if bin_um is not None and bin_um not in found:
        raise MissingFileError(f"no bins of bin_um={bin_um} in {root}; there are: {listed} um")
    sizes = sorted(found, reverse=True) if bin_um is None else [bin_um]
    fitting = [um for um in sizes if pitch_um >= um and abs(pitch_um / um - round(pitch_um / um)) < 1e-9]
    if not fitting:
        whole = ", ".join(f"{max(1, round(pitch_um / um)) * um}" for um in sizes)
        raise HisDiffError(
            f"pitch_um={pitch_um:g} is no multiple of the bins (bin_um={'any' if bin_um is None else bin_um}; in {root}: "
            f"{listed} um); the nearest that is: {whole}"
        )
    folder = found[fitting[0]]
    for name in (_COUNTS, _POSITIONS, _SCALEFACTORS):
        if not (folder / name).is_file():
            raise MissingFileError(f"no {name} in {folder}; copy the whole outs folder of Space Ranger")
    return folder, round(pitch_um / fitting[0])


def _pixel_size(folder: Path) -> float:
    path = folder / _SCALEFACTORS
    factors = read_json(path)
    mpp = number(factors, "microns_per_pixel") if isinstance(factors, dict) else None
    if mpp is None:
        raise HisDiffError(f"{path} has no microns_per_pixel; give mpp= (micrometres per level-0 px)")
    return mpp


def _pooled(folder: Path, side: int) -> tuple[AnnData, pd.DataFrame]:
    """Counts of squares of `side` x `side` bins and their centres in level-0 px."""
    from anndata import AnnData

    table = _read_counts(folder / _COUNTS)
    grid = _read_positions(folder / _POSITIONS)
    check_positions(table.obs_names, grid, folder / _COUNTS)
    # centres come from all bins, those off the tissue too, so that half a square is not moved to one side
    everywhere = Squares.of(grid["array_col"].to_numpy() // side, grid["array_row"].to_numpy() // side)
    centres = everywhere.mean(grid[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64))
    mine = grid.loc[table.obs_names]
    squares = Squares.of(mine["array_col"].to_numpy() // side, mine["array_row"].to_numpy() // side)
    full = squares.n_members >= _LEAST_SHARE * side**2
    if not full.any():
        raise HisDiffError(
            f"no square of {side} x {side} bins of {folder} is at least half under tissue ({table.n_obs} bins are); "
            "give a smaller pitch_um="
        )
    obs = pd.DataFrame({"n_bins": squares.n_members[full]}, index=squares.names[full])
    counts = AnnData(squares.sum(table.X)[full], obs=obs, var=table.var)
    return counts, pd.DataFrame(centres, index=everywhere.names, columns=["x", "y"])


def _read_counts(path: Path) -> AnnData:
    """Counts under the names of the file.

    `spatialdata_io.visium_hd` would read the images (a BTF whole) and all segmentations as well, and makes a polygon of
    every bin.
    """
    import scanpy as sc

    check_hdf5(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names that occur more than once are reported by clean_counts
            return sc.read_10x_h5(path)
    except Exception as error:  # damaged files fail in many ways
        raise HisDiffError(
            f"{path} cannot be read as counts of Space Ranger ({reason(error)}); copy it again"
        ) from error


def _read_positions(path: Path) -> pd.DataFrame:
    """Where the bins lie in their array and on the image, by barcode."""
    check_rows(path)
    try:
        grid = pd.read_parquet(path, columns=list(_COLUMNS)).set_index("barcode")
        finite = np.isfinite(grid.to_numpy(np.float64)).all()
    except Exception as error:
        raise HisDiffError(f"{path} cannot be read as positions of bins ({reason(error)}); copy it again") from error
    if not (finite and grid.index.is_unique and len(grid)):
        raise HisDiffError(f"{path} has bins without a position, bins that occur twice, or none; copy it again")
    return grid.astype({"array_row": np.int64, "array_col": np.int64})
