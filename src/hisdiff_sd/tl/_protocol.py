"""How independent a slide is of the training of a model: what scores and predictions on it are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hisdiff_sd._keys import TRAINED_ON, WITHIN_PATIENT

if TYPE_CHECKING:
    from hisdiff_sd.model import HisDiff


def protocol_of(attrs: dict[str, Any], model: HisDiff) -> str:
    """Whether the model knows the slide of this record, or its patient."""
    training = model.config.training
    patients = training.get("patients") or []
    if attrs["slide"] in training.get("slides", []):
        return TRAINED_ON
    if attrs.get("patient") and attrs["patient"] in patients:
        return WITHIN_PATIENT
    if not patients or not attrs.get("patient"):
        return "held-out slide, patient unknown"
    return "held-out slide and patient"
