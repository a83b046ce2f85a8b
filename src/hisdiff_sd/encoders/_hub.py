"""What went wrong at the Hugging Face hub, in the words of somebody who wants to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff_sd._errors import HisDiffError

if TYPE_CHECKING:
    from hisdiff_sd.encoders._registry import EncoderRow


def explain(error: Exception, row: EncoderRow) -> HisDiffError:
    """Turn an error of a hub download into one that says what to do."""
    return HisDiffError(f"{error}")
