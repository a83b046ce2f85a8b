"""What HEST-1k has besides images and counts: outlines of tissue and cells, patches, transcripts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.spatial import cKDTree

from hisdiff_sd._tissue_mask import outlines
from hisdiff_sd.datasets import _files
from hisdiff_sd.datasets._nuclei import KINDS
from hisdiff_sd.datasets._spots import TECHNOLOGIES
from hisdiff_sd.datasets._tissue import GRID_UM, OUTSIDE

if TYPE_CHECKING:
    import anndata as ad
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._nuclei import Nuclei
    from hisdiff_sd.datasets._tissue import Tissue

_CLASSES = {"tumour": "Neoplastic", "fibroblast": "Connective", "lymphocyte": "Inflammatory"}
_PATCH_PX, _PATCH_UM_PER_PX = 224, 0.5
_PATCHED = 0.9  # share of the spots that have a patch
_CELL_OF_NUCLEUS = 1.6  # radii
_CORNERS = 24
_REACH_UM = 8.0  # a transcript that is farther from any nucleus belongs to no cell
_CRS = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}  # geopandas writes it for pixels too


def write_extras(
    rng: np.random.Generator,
    root: Path,
    name: str,
    technology: str,
    mpp: float,
    image: NDArray[np.uint8],
    tissue: Tissue,
    nuclei: list[Nuclei],
    counts: ad.AnnData,
) -> None:
    """Write the further folders of a slide."""
    for folder in _files.EXTRA_FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    _write_outlines(root / "tissue_seg" / f"{name}_contours.geojson", tissue, mpp)
    _write_patches(rng, root / "patches" / f"{name}.h5", image, counts, mpp)
    seen = _ellipses(nuclei, mpp, 1.0)
    seen.to_parquet(root / "cellvit_seg" / f"{name}_cellvit_seg.parquet")
    _write_zip(root / "cellvit_seg" / f"{name}_cellvit_seg.geojson.zip", seen)
    if technology == "Xenium":
        ids = pd.Index([f"cell-{i:05d}" for i in range(len(seen))], name="cell_id")
        for kind, scale in (("cell", _CELL_OF_NUCLEUS), ("nucleus", 1.0)):
            shapes = _ellipses(nuclei, mpp, scale)[["geometry"]].set_index(ids)
            shapes.to_parquet(root / "xenium_seg" / f"{name}_xenium_{kind}_seg.parquet")
        centres = np.concatenate([kind.xy for kind in nuclei])
        found = _transcripts(rng, counts, TECHNOLOGIES[technology].pitch_um, mpp, centres, ids)
        found.to_parquet(root / "transcripts" / f"{name}_transcripts.parquet")


def _write_outlines(path: Path, tissue: Tissue, mpp: float) -> None:
    """The section as polygons with holes in level-0 px."""
    import shapely

    scale = GRID_UM / mpp
    features: list[dict[str, Any]] = []
    for number, polygon in enumerate(outlines(tissue.labels != OUTSIDE)):
        # coordinates of a mask are those of the centres of its cells
        moved = shapely.transform(polygon, lambda xy: (xy + 0.5) * scale)
        geometry = json.loads(shapely.to_geojson(moved))
        features.append({"type": "Feature", "properties": {"tissue_id": number}, "geometry": geometry})
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": _CRS, "features": features}), encoding="utf-8")


def _write_patches(
    rng: np.random.Generator, path: Path, image: NDArray[np.uint8], counts: ad.AnnData, mpp: float
) -> None:
    """Patches of 112 um around most of the spots, in an order of their own."""
    import h5py

    chosen = rng.permutation(counts.n_obs)[: max(1, int(_PATCHED * counts.n_obs))]
    side = _PATCH_PX * _PATCH_UM_PER_PX / mpp
    corners = (np.asarray(counts.obsm["spatial"])[chosen] - side // 2).astype(np.int64)
    whole = Image.fromarray(image)
    patches = [
        whole.resize((_PATCH_PX, _PATCH_PX), Image.Resampling.BILINEAR, box=_within(x, y, side, whole.size))
        for x, y in corners
    ]
    with h5py.File(path, "w") as file:
        file["img"] = np.stack([np.asarray(patch) for patch in patches])
        file["coords"] = corners
        file["barcode"] = counts.obs_names[chosen].to_numpy().astype("S")[:, None]


def _within(x: int, y: int, side: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A square moved onto the image."""
    left, top = (float(np.clip(v, 0, max(length - side, 0))) for v, length in ((x, size[0]), (y, size[1])))
    return left, top, min(left + side, size[0]), min(top + side, size[1])


def _ellipses(nuclei: list[Nuclei], mpp: float, scale: float) -> GeoDataFrame:
    """Nuclei as polygons in level-0 px, of the classes that CellViT has."""
    import shapely
    from geopandas import GeoDataFrame

    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    polygons, classes = [], []
    for (name, _), kind in zip(KINDS.items(), nuclei, strict=True):
        long, short = (scale * kind.radii / mpp).T[..., None]
        cos, sin = np.cos(kind.angle)[:, None], np.sin(kind.angle)[:, None]
        along, across = long * np.cos(turn), short * np.sin(turn)
        around = np.stack([cos * along - sin * across, sin * along + cos * across], axis=-1)
        polygons += list(shapely.polygons(kind.xy[:, None] / mpp + around))
        classes += [_CLASSES[name]] * len(kind.xy)
    return GeoDataFrame({"class": classes, "cell_id": np.arange(len(polygons))}, geometry=polygons)


def _write_zip(path: Path, cells: GeoDataFrame) -> None:
    """Zipped GeoJSON with one feature per class."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[[[x, y] for x, y in cell.exterior.coords]] for cell in of_class.geometry],
            },
            "properties": {"objectType": "annotation", "classification": {"name": str(name)}},
        }
        for name, of_class in cells.groupby("class")
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".zip"), json.dumps(features))


def _transcripts(
    rng: np.random.Generator,
    counts: ad.AnnData,
    side_um: float,
    mpp: float,
    centres_um: NDArray[np.float64],
    cells: pd.Index,
) -> pd.DataFrame:
    """As many molecules in every bin as were counted, somewhere in it."""
    counted = counts.X.tocoo()
    number = counted.data.astype(np.intp)
    spot, gene = np.repeat(counted.row, number), np.repeat(counted.col, number)
    centre = np.asarray(counts.obsm["spatial"])[spot] * mpp
    um = centre + rng.uniform(-0.499, 0.499, (len(spot), 2)) * side_um
    distance, nearest = cKDTree(centres_um).query(um)
    owner = np.where(distance < _REACH_UM, cells.to_numpy()[nearest], "UNASSIGNED")
    return pd.DataFrame(
        {
            "cell_id": owner,
            "feature_name": counts.var_names.to_numpy().astype("S")[gene].astype(object),
            "x_location": um[:, 0],
            "y_location": um[:, 1],
            "qv": rng.uniform(20, 40, len(spot)).astype(np.float32),
            "he_x": um[:, 0] / mpp,
            "he_y": um[:, 1] / mpp,
        }
    )
