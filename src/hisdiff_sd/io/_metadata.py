"""Metadata of HEST slides: one flat JSON object per slide, a table of all slides beside it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._hest_files import part
from hisdiff_sd.io._json import read_json

Values = dict[str, Any]


def read_metadata(root: Path, sample_id: str) -> Values:
    """Metadata of one slide; blank and NaN entries are left out.

    ``metadata/<id>.json`` is preferred; the root's ``HEST_v*.csv`` fills what it does not say.
    """
    values = {**table_metadata(root).get(sample_id, {}), **json_metadata(root, sample_id)}
    if not values:
        raise MissingFileError(
            f"no metadata for slide {sample_id!r}: neither {part(root, sample_id, 'metadata')} nor a row in "
            f"{root}/HEST_v*.csv; fetch it, or give mpp= and use hd.io.visium for Space Ranger output"
        )
    return values


def table_metadata(root: Path) -> dict[str, Values]:
    """What the tables ``HEST_v*.csv`` say, by slide; of several the newest has the last word."""
    found: dict[str, Values] = {}
    for table in sorted(root.glob("HEST_v*.csv"), key=_version):
        try:
            # of ids that are numbers, a column with blanks would become one of floats
            rows = pd.read_csv(table, encoding="utf-8-sig", dtype={"id": str, "patient": str})
        except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
            raise HisDiffError(f"{table} cannot be read as a table ({reason(error)}); fetch the file again") from error
        if "id" in rows:
            for row in rows.to_dict("records"):
                found.setdefault(str(row["id"]), {}).update(_present(row))
    return found


def json_metadata(root: Path, sample_id: str) -> Values:
    """What ``metadata/<id>.json`` says; nothing if it is not there."""
    path = part(root, sample_id, "metadata")
    if not path.exists():
        return {}
    loaded = read_json(path)
    if not isinstance(loaded, dict):
        raise HisDiffError(f"{path} holds a {type(loaded).__name__}, not one flat JSON object")
    return _present(loaded)


def number(values: Values, key: str) -> float | None:
    """A positive number of the metadata, or None where it is blank, NaN or no number."""
    try:
        value = float(values[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def text(values: Values, key: str) -> str:
    """A word of the metadata, empty where it is blank; ``1.0`` of a table is the ``1`` of a JSON file."""
    value = values.get(key, "")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _version(table: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", table.stem)]


def _present(row: Values) -> Values:
    return {
        str(k): v
        for k, v in row.items()
        if v is not None and v != "" and not (isinstance(v, float) and not math.isfinite(v))
    }
