"""What a store says of its slide, checked before anything is computed from it: stores of others may be damaged or edited."""

from __future__ import annotations

import math
from typing import Any

from hisdiff_sd._errors import HisDiffError

_TEXT = ("slide", "patient", "species", "organ", "technology")
_SIZES = ("spot_diameter_um", "spot_pitch_um")


def check_record(record: dict[str, Any]) -> None:
    """Refuse a record (``sdata.attrs["hisdiff_sd"]``) that lacks what all work on a slide needs."""
    name = record.get("slide")
    if not is_size(record.get("mpp")):
        raise HisDiffError(
            f"slide {name!r} has no pixel size (mpp={record.get('mpp')!r}), so sizes on it are not known; "
            "read it again with mpp="
        )
    size = record.get("true_size")
    sides = isinstance(size, list | tuple) and len(size) == 2 and all(is_size(n) and n == int(n) for n in size)
    wrong = [key for key in _TEXT if not isinstance(record.get(key), str)]
    wrong += [key for key in _SIZES if record.get(key) is not None and not is_size(record[key])]
    wrong += ["true_size"] * (not sides) + ["qc"] * (not isinstance(record.get("qc"), dict))
    wrong += ["source"] * (not isinstance(record.get("source", {}), dict))
    if wrong:
        values = ", ".join(f"{key}={record.get(key)!r:.40}" for key in wrong)
        raise HisDiffError(
            f"slide {str(name)!r:.60} has a damaged record (attrs['hisdiff_sd']: {values}); read it again"
        )


def is_size(value: Any) -> bool:
    """Whether a value is a positive finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
