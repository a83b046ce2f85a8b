"""Image, spots and counts put together as one SpatialData in the package's layout."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.io._counts import clean_counts
from hisdiff_sd.io._image import open_image, pyramid, thumbnail, true_size

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_MOST_OUTSIDE = 0.05
_LEAST_MPP, _MOST_MPP = 0.001, 1000.0
FEWEST_FOR_PITCH = 7


@dataclass
class SlideParts:
    """What a reader has found of one slide, in level-0 px.

    Attributes
    ----------
    slide
        Id of the slide.
    image_path, counts_path
        Files of the H&E image and the counts, or what messages call them.
    counts
        Spots x genes, raw, indexed by barcode.
    xy
        (n, 2) spot centres (x, y), indexed by barcode; joined to the counts by barcode.
    mpp, mpp_source
        Micrometres per level-0 px and where the figure comes from.
    spot_diameter_um, spot_pitch_um
        Nominal geometry of the technology.
    about
        Patient, species, organ, technology: what the source says of the slide.
    image, small
        Level 0, uint8 (3, y, x), and a thumbnail, where the image is no file.
    """

    slide: str
    image_path: Path | str
    counts_path: Path | str
    counts: AnnData
    xy: pd.DataFrame
    mpp: float
    mpp_source: str
    spot_diameter_um: float
    spot_pitch_um: float | None
    about: dict[str, str] = field(default_factory=dict)
    image: da.Array | None = None
    small: np.ndarray | None = None

    def pixels(self) -> tuple[da.Array, dict[str, Any]]:
        """Level 0, and what the slide's record says of where it comes from."""
        if self.image is not None:
            return self.image, {"image": str(self.image_path)}
        path = Path(self.image_path)
        return open_image(path), {"image": path.name, "image_bytes": path.stat().st_size}

    def thumbnail(self, image: da.Array) -> np.ndarray:
        """A small image of the slide, uint8 (y, x, 3)."""
        return thumbnail(Path(self.image_path), image) if self.small is None else self.small


def check_mpp(mpp: float) -> float:
    """A pixel size that a user gave."""
    if not _LEAST_MPP <= mpp <= _MOST_MPP:
        raise HisDiffError(f"mpp={mpp} is no pixel size; micrometres per level-0 px are needed, such as 0.5")
    return float(mpp)


def assemble(parts: SlideParts) -> SpatialData:
    """Check the parts against each other and return them as a lazy SpatialData."""
    from geopandas import GeoDataFrame, points_from_xy
    from spatialdata import SpatialData, sanitize_table
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    image, source = parts.pixels()
    table, found = clean_counts(parts.counts, str(parts.counts_path))
    sanitize_table(table)  # columns of others may have names that no store takes, or ours in capitals
    ours = (keys.REGION, keys.INSTANCE)
    table.obs = table.obs.drop(columns=[column for column in table.obs if column.lower() in ours])
    xy = _join(parts, table)
    xy, table = _inside(parts, xy, table, image, found)
    _check_pitch(parts, xy, found)
    diameter_px = parts.spot_diameter_um / parts.mpp
    transformations = {"global": Identity(), "microns": Scale([parts.mpp, parts.mpp], axes=("x", "y"))}
    shapes = GeoDataFrame(
        {"radius": np.full(len(xy), diameter_px / 2)},
        geometry=points_from_xy(xy[:, 0], xy[:, 1]),
        index=pd.Index(table.obs_names, name=None),
    )
    small = parts.thumbnail(image)
    scale = max(small.shape[:2]) / max(true_size(image))
    dress_table(table, keys.SPOTS, xy, spatial_uns(parts.slide, small, scale, diameter_px))
    attrs = slide_record(
        parts.slide,
        image,
        source,
        mpp=parts.mpp,
        mpp_source=parts.mpp_source,
        about=parts.about,
        spot_um=(parts.spot_diameter_um, parts.spot_pitch_um),
        found=found,
    )
    return SpatialData(
        images={keys.HE: pyramid(image, parts.mpp)},
        shapes={keys.SPOTS: ShapesModel.parse(shapes, transformations=transformations)},
        tables={keys.TABLE: parse_table(table, keys.SPOTS)},
        attrs={keys.ATTRS: attrs},
    )


def slide_record(
    slide: str,
    image: da.Array,
    source: dict[str, Any],
    *,
    mpp: float,
    mpp_source: str,
    about: dict[str, str],
    spot_um: tuple[float | None, float | None] = (None, None),
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What a store says of its slide: ``sdata.attrs["hisdiff_sd"]``."""
    height, width = true_size(image)
    return {
        "schema": keys.SCHEMA_VERSION,
        "slide": slide,
        **{k: about.get(k, "") for k in ("patient", "species", "organ", "technology", "dataset")},
        "mpp": mpp,
        "mpp_source": mpp_source,
        "spot_diameter_um": spot_um[0],
        "spot_pitch_um": spot_um[1],
        "true_size": [height, width],
        "source": source,
        "qc": found or {},
    }


def dress_table(table: AnnData, region: str, xy: np.ndarray, uns: dict[str, Any]) -> None:
    """Give a table what SpatialData (region, instance) and squidpy (``obsm``, ``uns``) look for."""
    table.obs[keys.REGION] = pd.Categorical([region] * table.n_obs)
    table.obs[keys.INSTANCE] = table.obs_names.to_numpy()
    table.obsm["spatial"] = np.asarray(xy, np.float64)
    table.uns["spatial"] = uns


def parse_table(table: AnnData, region: str) -> AnnData:
    """Validate a dressed table as one that annotates `region`."""
    from spatialdata.models import TableModel

    return TableModel.parse(table, region=region, region_key=keys.REGION, instance_key=keys.INSTANCE)


def spatial_uns(slide: str, image: np.ndarray, scale: float, diameter_px: float) -> dict[str, Any]:
    """The ``uns["spatial"]`` that squidpy and scanpy draw a slide from."""
    scalefactors = {"tissue_hires_scalef": float(scale), "spot_diameter_fullres": float(diameter_px)}
    return {keys.library_key(slide): {"images": {"hires": image}, "scalefactors": scalefactors}}


def pitch_px(xy: np.ndarray) -> float:
    """Distance of neighbouring spots in level-0 px.

    Real spots lie some way off their grid, so that the nearest one of four or six is nearer than the pitch (6% on
    Spatial Transcriptomics slides); the second nearest is not.
    """
    distance, _ = cKDTree(xy).query(xy, k=3)
    return float(np.median(distance[:, 2]))


def check_positions(barcodes: pd.Index, xy: pd.DataFrame, source: Path | str) -> None:
    """Refuse counts of which some have no position."""
    missing = barcodes.difference(xy.index.astype(str))
    if len(missing):
        raise HisDiffError(
            f"{source}: {len(missing)} of {len(barcodes)} barcodes have no position, for example {list(missing[:3])}; "
            "are counts and positions of the same slide?"
        )


def _join(parts: SlideParts, table: AnnData) -> np.ndarray:
    """Spot centres in the order of the counts, by barcode."""
    check_positions(table.obs_names, parts.xy, parts.counts_path)
    xy = parts.xy.set_axis(parts.xy.index.astype(str)).loc[table.obs_names].to_numpy(np.float64)
    if not np.isfinite(xy).all():
        raise HisDiffError(f"{parts.counts_path}: {int((~np.isfinite(xy)).any(1).sum())} spots have no finite position")
    return xy


def _inside(
    parts: SlideParts, xy: np.ndarray, table: AnnData, image: da.Array, found: dict[str, Any]
) -> tuple[np.ndarray, AnnData]:
    """Drop the few spots outside the image; refuse when they are many."""
    height, width = true_size(image)
    inside = (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < width) & (xy[:, 1] < height)
    outside = int((~inside).sum())
    found["spots_outside_image"] = outside
    if outside > _MOST_OUTSIDE * len(xy):
        raise HisDiffError(
            f"{outside} of {len(xy)} spots of {parts.counts_path} lie outside the image {parts.image_path} "
            f"({width} x {height} px; spots reach to {xy[:, 0].max():.0f}, {xy[:, 1].max():.0f}); "
            "counts and image seem to be of different slides"
        )
    if outside:
        warnings.warn(
            f"slide {parts.slide}: {outside} spots outside the image were dropped: {list(table.obs_names[~inside][:5])}",
            HisDiffWarning,
            stacklevel=4,
        )
    return xy[inside], table[inside].copy()


def _check_pitch(parts: SlideParts, xy: np.ndarray, found: dict[str, Any]) -> None:
    """Compare the measured spot pitch with the declared one: the surest check of the pixel size."""
    if parts.spot_pitch_um is None or len(xy) < FEWEST_FOR_PITCH:
        return
    measured = pitch_px(xy) * parts.mpp
    found["measured_pitch_um"] = measured
    if not 0.85 < measured / parts.spot_pitch_um < 1.15:
        warnings.warn(
            f"slide {parts.slide}: neighbouring spots are {measured:.0f} um apart at {parts.mpp:.4g} um per px "
            f"({parts.mpp_source}), {parts.spot_pitch_um:g} um are declared; give mpp= if the pixel size is wrong",
            HisDiffWarning,
            stacklevel=4,
        )
