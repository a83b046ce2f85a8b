from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._hdf5 import check_hdf5
from hisdiff_sd.io._qc_findings import SPOT_GRID
from hisdiff_sd.io._slide import FEWEST_FOR_PITCH, SlideParts, assemble, check_mpp, check_positions, pitch_px

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

SPOT_UM, PITCH_UM = 55.0, 100.0
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")
_SCALEFACTORS = ("scalefactors_json.json",)


def visium(
    path: str | Path,
    image: str | Path,
    *,
    slide: str | None = None,
    mpp: float | None = None,
    patient: str = "",
    species: str = "",
    organ: str = "",
    genes: Literal["symbols", "ids", "file"] = "symbols",
    control_probes: bool = False,
) -> SpatialData:
    """Read Space Ranger output of one Visium slide, lazily.

    Counts and positions are read by `spatialdata_io.visium`; barcodes are joined by name.

    Parameters
    ----------
    path
        The ``outs`` folder: ``filtered_feature_bc_matrix.h5`` and ``spatial/``.
    image
        The full-resolution H&E image that was given to Space Ranger (TIFF, PNG or JPEG); its output does not hold it.
    slide
        Id of the slide; the folder's name by default.
    mpp
        Micrometres per level-0 pixel. By default from the measured distance of neighbouring spots, which are 100 um apart.
    patient, species, organ
        What is known of the slide; kept in its attributes.
    genes, control_probes
        As in `hd.io.hest`.

    Returns
    -------
    SpatialData laid out as that of `hd.io.hest`.

    Raises
    ------
    MissingFileError
        If the folder, the counts or the image are not there.
    HisDiffError
        As `hd.io.hest`.

    Examples
    --------
    With the ``outs`` folder of Space Ranger and the image that it was run with in the working directory:

    >>> import hisdiff_sd as hd
    >>> sdata = hd.io.visium("P7/outs", "section.tif", patient="7")
    >>> sdata["table"].obs_names.equals(sdata["spots"].index)
    True
    """
    root, image_path = Path(path).resolve(), Path(image)
    counts_path = _check_files(root, image_path)
    name = slide or (root.parent.name if root.name == "outs" else root.name)
    counts = _read_space_ranger(root, counts_path)
    xy = pd.DataFrame(counts.obsm["spatial"], index=counts.obs_names, columns=["x", "y"]).astype(float)
    xy = xy.dropna()  # what the positions file does not name
    check_positions(counts.obs_names, xy, counts_path)
    if mpp is None:
        mpp, source = _pixel_size_of_grid(xy.to_numpy(), root), f"{SPOT_GRID}, 100 um pitch"
    else:
        mpp, source = check_mpp(mpp), "given"
    return assemble(
        SlideParts(
            slide=name,
            image_path=image_path,
            counts_path=counts_path,
            counts=counts,
            xy=xy,
            mpp=mpp,
            mpp_source=source,
            spot_diameter_um=SPOT_UM,
            spot_pitch_um=PITCH_UM,
            about={"technology": "Visium", "patient": patient, "species": species, "organ": organ},
            genes=genes,
            control_probes=control_probes,
        )
    )


def _check_files(root: Path, image_path: Path) -> Path:
    if not root.is_dir():
        raise MissingFileError(f"no folder {root}; the outs folder of Space Ranger is needed")
    found = sorted(root.glob("*filtered_feature_bc_matrix.h5"))
    if not found:
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:10])
        raise MissingFileError(f"no filtered_feature_bc_matrix.h5 in {root}; there are: {inside or 'no files'}")
    if not image_path.is_file():
        raise MissingFileError(
            f"no image {image_path}; give the full-resolution H&E image that Space Ranger was run with"
        )
    spatial = root / "spatial"
    for names in (_POSITIONS, _SCALEFACTORS):
        if not any((spatial / name).is_file() for name in names):
            raise MissingFileError(f"no {' or '.join(names)} in {spatial}; copy the whole outs folder of Space Ranger")
    return found[0]


def _read_space_ranger(root: Path, counts_path: Path) -> AnnData:
    """Counts with their positions, under the names of the file."""
    import scanpy as sc
    import spatialdata_io

    check_hdf5(counts_path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names that occur more than once are reported by clean_counts
            read = spatialdata_io.visium(root, dataset_id="visium", counts_file=counts_path.name)
            names = sc.read_10x_h5(counts_path)
    except Exception as error:  # damaged files fail in many ways
        raise HisDiffError(f"{root} cannot be read as Space Ranger output ({reason(error)}); copy it again") from error
    table = read.tables["table"]
    # the reader renames what occurs more than once; clean_counts sums such genes and refuses such barcodes
    table.obs_names, table.var_names = names.obs_names, names.var_names
    table.obs = table.obs.drop(columns=["spot_id", "region"], errors="ignore")
    return table


def _pixel_size_of_grid(xy: np.ndarray, root: Path) -> float:
    if len(xy) < FEWEST_FOR_PITCH:
        raise HisDiffError(f"{root}: {len(xy)} spots are too few to measure the pixel size from; give mpp=")
    pitch = pitch_px(xy)
    if pitch <= 0:
        raise HisDiffError(f"{root}: neighbouring spots lie on one point; give mpp= and check the tissue positions")
    return PITCH_UM / pitch
