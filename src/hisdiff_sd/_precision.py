"""In which precision networks compute, the encoders and the one that samples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from hisdiff_sd._errors import HisDiffError, check_one_of

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", "fp32", *_DTYPES)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in: ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` is bf16 on CUDA cards that compute in it (compute capability 8.0, Ampere, and later), else fp32.
    """
    check_one_of(precision, PRECISIONS, "precision")
    if precision == "fp16" and device.type == "cpu":
        raise HisDiffError("precision 'fp16' needs a GPU; on the CPU give 'fp32' or 'bf16'")
    if precision != "auto":
        return precision
    # Older cards only emulate bf16: torch says that it is there, and it is slower than fp32.
    in_hardware = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if in_hardware else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Matrix products in a resolved precision; all else as it is."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_DTYPES[precision])
