"""What --dry-run says: what each slide has already, from the metadata of its store alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._cli._stores import elements_of, is_store, slide_of
from hisdiff_sd._cohort import image_pixels


def planned_tables(stores: Sequence[str], table: str, companions: Path | None = None) -> pd.DataFrame:
    """A row per store: whether it has the table; the call itself looks whether it was made in the same way."""
    rows = []
    for store in stores:
        target = Path(store) if companions is None else companions / Path(store).name
        there = f"tables/{table}" in elements_of(target)
        rows.append((store, slide_of(store), image_pixels(store) / 1e9, table, "there" if there else "to do"))
    return pd.DataFrame(rows, columns=["store", "slide", "gigapixels", "table", "status"])


def planned_prediction(store: str, key: str | None, spacing_um: float | None) -> str:
    """Name of the table that a prediction of a slide will have."""
    if key is not None:
        return key
    if spacing_um is not None:
        return keys.prediction_key(keys.tiles_key(spacing_um))
    return keys.PREDICTION if f"shapes/{keys.SPOTS}" in elements_of(store) else f"{keys.PREDICTION}_tiles_..."


def planned_conversions(source: Path, out: Path, samples: Sequence[str] | None) -> pd.DataFrame:
    """A row per slide: whether its store is there."""
    rows = [(name, str(out / f"{name}.zarr")) for name in slides_of(source, samples)]
    status = ["there" if is_store(store) else "to do" for _, store in rows]
    return pd.DataFrame(rows, columns=["slide", "store"]).assign(status=status)


def slides_of(source: Path, samples: Sequence[str] | None) -> list[str]:
    """Ids of the slides of a HEST folder or a sample sheet, all or those that are asked for."""
    from hisdiff_sd.io._samples import samples_of

    return [sample.id for sample in samples_of(source, samples)]
