"""JSON files of others: read whole, or refused with one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hisdiff_sd._errors import HisDiffError, reason

_MOST_BYTES = 2**28


def read_json(path: Path) -> Any:
    """Content of a JSON file; whatever is wrong with it becomes one error."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise HisDiffError(f"{path} has {size:,} bytes, at most {_MOST_BYTES:,} are read; is it the right file?")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except HisDiffError:
        raise
    except (ValueError, RecursionError, OSError) as error:  # no JSON, nested too deep, no file
        raise HisDiffError(f"{path} is not valid JSON ({reason(error)}); fetch the file again") from error
