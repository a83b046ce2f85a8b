"""Metadata of HEST slides: one flat JSON object per slide, a table of all slides beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._json import read_json


def sample_ids(root: Path) -> list[str]:
    """Ids of the slides under a HEST root that have counts or an image."""
    files = (p for folder, end in (("st", "*.h5ad"), ("wsis", "*.tif")) for p in (root / folder).glob(end))
    return sorted({p.stem for p in files if not p.name.startswith(".")})


def read_metadata(root: Path, sample_id: str) -> dict[str, Any]:
    """Metadata of one slide; blank and NaN entries are left out.

    ``metadata/<id>.json`` is preferred; the root's ``HEST_v*.csv`` fills what it does not say.
    """
    values: dict[str, Any] = {}
    for table in sorted(root.glob("HEST_v*.csv")):
        try:
            rows = pd.read_csv(table, encoding="utf-8-sig", dtype={"id": str})
        except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
            raise HisDiffError(f"{table} cannot be read as a table ({reason(error)}); fetch the file again") from error
        if "id" in rows:
            for row in rows[rows["id"] == sample_id].to_dict("records"):
                values.update(_present(row))
    path = root / "metadata" / f"{sample_id}.json"
    if path.exists():
        loaded = read_json(path)
        if not isinstance(loaded, dict):
            raise HisDiffError(f"{path} holds a {type(loaded).__name__}, not one flat JSON object")
        values.update(_present(loaded))
    if not values:
        raise MissingFileError(
            f"no metadata for slide {sample_id!r}: neither {path} nor a row in {root}/HEST_v*.csv; "
            "fetch it, or give mpp= and use hd.io.visium for Space Ranger output"
        )
    return values


def number(values: dict[str, Any], key: str) -> float | None:
    """A positive number of the metadata, or None where it is blank, NaN or no number."""
    try:
        value = float(values[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {
        str(k): v
        for k, v in row.items()
        if v is not None and v != "" and not (isinstance(v, float) and not math.isfinite(v))
    }
