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
from hisdiff_sd.io._genes import GeneNames
from hisdiff_sd.io._image import open_image, pyramid, thumbnail, true_size
from hisdiff_sd.io._pixel_size import by_source, of_file
from hisdiff_sd.io._qc_facts import count_facts, fingerprints, place_facts
from hisdiff_sd.io._qc_findings import SPOT_GRID, findings_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.transformations import BaseTransformation

_MOST_OUTSIDE = 0.05
_SAID = ("spots outside the image", "spot pitch")  # warned of where they are found
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
    pitch_known
        Whether `spot_pitch_um` is known without the pixel size; if it follows from that, it says nothing of it.
    bins
        Whether the spots are square bins without gaps between them: then the measured distance is their size.
    pixel_sizes
        Micrometres per level-0 px by whoever but the image says something of it.
    genes, control_probes
        How genes are named, and whether control probes are kept: see `clean_counts`.
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
    pitch_known: bool = True
    bins: bool = False
    pixel_sizes: dict[str, float] = field(default_factory=dict)
    genes: GeneNames = "symbols"
    control_probes: bool = False
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

    image, source = parts.pixels()
    table, found = clean_counts(
        parts.counts, str(parts.counts_path), genes=parts.genes, control_probes=parts.control_probes
    )
    sanitize_table(table)  # columns of others may have names that no store takes, or ours in capitals
    ours = (keys.REGION, keys.INSTANCE)
    table.obs = table.obs.drop(columns=[column for column in table.obs if column.lower() in ours])
    xy = _join(parts, table)
    xy, table = _inside(parts, xy, table, image, found)
    diameter, pitch = _measured_geometry(parts, xy, found)
    diameter_px = diameter / parts.mpp
    shapes = GeoDataFrame(
        {"radius": np.full(len(xy), diameter_px / 2)},
        geometry=points_from_xy(xy[:, 0], xy[:, 1]),
        index=pd.Index(table.obs_names, name=None),
    )
    small = parts.thumbnail(image)
    scale = max(small.shape[:2]) / max(true_size(image))
    dress_table(table, keys.SPOTS, xy, spatial_uns(parts.slide, small, scale, diameter_px))
    found |= _pixel_sizes(parts, found) | count_facts(table)
    found |= place_facts(table, small, scale, parts.mpp, (diameter, pitch))
    found["fingerprints"] = fingerprints(parts.counts, small)
    attrs = slide_record(
        parts.slide,
        image,
        source,
        mpp=parts.mpp,
        mpp_source=parts.mpp_source,
        about=parts.about,
        spot_um=(diameter, pitch),
        spot_shape="square" if parts.bins else "circle",
        found=found,
    )
    _warn_of(attrs)
    return SpatialData(
        images={keys.HE: pyramid(image, parts.mpp)},
        shapes={keys.SPOTS: ShapesModel.parse(shapes, transformations=transformations_of(parts.mpp))},
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
    spot_shape: str | None = None,
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
        "spot_shape": spot_shape,
        "true_size": [height, width],
        "source": source,
        "qc": found or {},
    }


def transformations_of(mpp: float) -> dict[str, BaseTransformation]:
    """From level-0 px to the coordinate systems of a store."""
    from spatialdata.transformations import Identity, Scale

    return {"global": Identity(), "microns": Scale([mpp, mpp], axes=("x", "y"))}


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


def pitch_px(xy: np.ndarray, *, exact: bool = False) -> float:
    """Distance of neighbouring spots in level-0 px.

    Real spots lie some way off their grid, so that the nearest one of four or six is nearer than the pitch (6% on
    Spatial Transcriptomics slides); the second nearest is not. Where they lie on it exactly, as computed bins do, the
    nearest one is taken, which is right with many gaps too.
    """
    distance, _ = cKDTree(xy).query(xy, k=3)
    return float(np.median(distance[:, 1 if exact else 2]))


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


def _pixel_sizes(parts: SlideParts, found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Micrometres per level-0 px by all who say something of it."""
    of_image = {} if parts.image is not None else by_source(of_file(Path(parts.image_path)))
    said = parts.pixel_sizes | of_image
    if found.get("measured_pitch_um") and parts.spot_pitch_um and not parts.mpp_source.startswith(SPOT_GRID):
        said[SPOT_GRID] = parts.mpp * parts.spot_pitch_um / found["measured_pitch_um"]
    return {"pixel_sizes": said}


def _warn_of(attrs: dict[str, Any]) -> None:
    """Warn of what the QC of a slide has found, once, where the user called; it is kept with the slide."""
    for finding in findings_of(attrs):
        if finding.level in ("warning", "error") and finding.name not in _SAID:
            warnings.warn(f"slide {attrs['slide']}: {finding}", HisDiffWarning, stacklevel=4)


def _measured_geometry(parts: SlideParts, xy: np.ndarray, found: dict[str, Any]) -> tuple[float, float | None]:
    """Diameter and pitch in um, after a look at the distance of the spots: the surest check of the pixel size."""
    declared = parts.spot_pitch_um
    found["declared_pitch_um"] = declared
    if declared is None or not parts.pitch_known or len(xy) < FEWEST_FOR_PITCH:
        return parts.spot_diameter_um, declared
    measured = pitch_px(xy, exact=parts.bins) * parts.mpp
    found["measured_pitch_um"] = measured
    if not 0.85 < measured / declared < 1.15:
        fits = f"; they would be at {parts.mpp * declared / measured:.4g} um per px" if measured > 0 else ""
        warnings.warn(
            f"slide {parts.slide}: neighbouring spots are {measured:.0f} um apart at {parts.mpp:.4g} um per px "
            f"({parts.mpp_source}), {declared:g} um are declared{fits}; give mpp= if the pixel size is wrong"
            + ("; their measured distance is taken for their size" if parts.bins else ""),
            HisDiffWarning,
            stacklevel=4,
        )
    if parts.bins and measured > 0:
        size = round(measured, 1)  # what lies below is the rounding of their centres
        return size, size
    return parts.spot_diameter_um, declared
