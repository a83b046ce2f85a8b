"""Slides with predictions of known values, made without a model."""

from __future__ import annotations

from collections.abc import Callable

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

from hisdiff_sd._provenance import provenance, set_provenance
from hisdiff_sd.io._slide import dress_table, parse_table

RECORD = {
    "kind": "prediction",
    "slide": "S3",
    "model_hash": "f00d" * 16,
    "target": "log2",
    "encoder": "morphology",
    "encoder_hash": "beef" * 16,
    "tile": "hisdiff",
    "tile_side_px": 224.0,
    "padding": "black",
    "filter": "lanczos",
    "sampler": "ancestral",
    "steps": 50,
    "samples": 16,
    "seed": 3,
    "failed_tiles": 2,
    "training_slides": ["T1", "T2"],
    "licences": {"encoder": "MIT", "data": "CC BY 4.0"},
}
Lay = Callable[..., str]
Predict = Callable[..., AnnData]


@pytest.fixture(scope="session")
def lay_tiles() -> Lay:
    """Lay a grid of tiles over the spots of a slide, and return its name; a corner and a tile inside are left out."""

    def lay(sdata: SpatialData, spacing_um: float = 100.0, *, hexagonal: bool = False) -> str:
        side = spacing_um / sdata.attrs["hisdiff_sd"]["mpp"]
        x0, y0, x1, y1 = sdata["spots"].total_bounds
        step = side * np.sqrt(3) / 2 if hexagonal else side
        x, y = np.meshgrid(np.arange(x0, x1, side), np.arange(y0, y1, step))
        if hexagonal:
            x[1::2] += side / 2
        xy = np.delete(np.column_stack([x.ravel(), y.ravel()]), [0, 1, 2, x.shape[1] + 4], axis=0)
        if hexagonal:
            angles = np.deg2rad(np.arange(30, 390, 60))
            corners = xy[:, None] + side / np.sqrt(3) * np.column_stack([np.cos(angles), np.sin(angles)])
            tiles = shapely.polygons(corners)
        else:
            tiles = shapely.box(*(xy - side / 2).T, *(xy + side / 2).T)
        columns = {"tile_um": 112.0, "spacing_um": spacing_um, "grid": "hexagonal" if hexagonal else "square"}
        frame = gpd.GeoDataFrame(columns, geometry=tiles, index=[f"tile_{i}" for i in range(len(tiles))])
        name = f"tiles_{spacing_um:g}um"
        sdata[name] = ShapesModel.parse(frame, transformations={"global": Identity()})
        return name

    return lay


@pytest.fixture(scope="session")
def add_prediction() -> Predict:
    """Add a prediction to a slide, in shuffled order; a gene is as high as its place from left to right says."""

    def add(
        sdata: SpatialData,
        shapes_key: str = "spots",
        genes: tuple[str, ...] = ("EPCAM", "ERBB2", "COL1A1", "VIM"),
        *,
        name: str | None = None,
        ood: np.ndarray | None = None,
        **var: list,
    ) -> AnnData:
        """`ood` is in the order of the shapes, `var` are columns such as ``reliable``."""
        frame = sdata.shapes[shapes_key]
        centres = shapely.get_coordinates(frame.geometry.centroid)
        along = (centres[:, 0] - centres[:, 0].min()) / np.ptp(centres[:, 0])
        mean = 1 + np.outer(along, np.arange(1, len(genes) + 1)).astype(np.float32)
        obs = pd.DataFrame(index=frame.index.astype(str))
        record = provenance(**RECORD, shapes=shapes_key)
        if ood is not None:
            obs["ood"], obs["trusted"] = np.float32(ood), ood <= 1
            record |= {"ood_median": float(np.median(ood)), "trusted_share": float((ood <= 1).mean())}
        table = AnnData(mean, obs=obs, var=pd.DataFrame(var, index=list(genes)), layers={"std": np.float16(mean / 4)})
        table = table[np.random.default_rng(0).permutation(len(obs))].copy()
        where = pd.Series(range(len(frame)), index=frame.index.astype(str))
        dress_table(table, shapes_key, centres[where[table.obs_names]], {})
        set_provenance(table, record)
        key = name or ("hisdiff" if shapes_key == "spots" else f"hisdiff_{shapes_key}")
        sdata[key] = parse_table(table, shapes_key)
        return sdata[key]

    return add
