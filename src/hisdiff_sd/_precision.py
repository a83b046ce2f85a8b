"""In which precision networks compute, the encoders and the one that samples."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from hisdiff_sd._errors import HisDiffError, check_one_of

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", "fp32", *_DTYPES)
VARIABLE = "HISDIFF_SD_PRECISION"


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in: ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` is what the environment variable ``HISDIFF_SD_PRECISION`` says, so that the machines of a lab can be kept to
    one precision; without it bf16 where the device computes in it, else fp32.
    """
    check_one_of(precision, PRECISIONS, "precision")
    if precision == "auto" and os.environ.get(VARIABLE):
        precision = os.environ[VARIABLE]
        check_one_of(precision, PRECISIONS, f"precision (environment variable {VARIABLE})")
    if precision == "auto":
        return "bf16" if _computes_in_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise HisDiffError("precision 'fp16' needs a GPU; on the CPU give 'fp32' or 'bf16'")
    return precision


def _computes_in_bf16(device: torch.device) -> bool:
    """CUDA cards of compute capability 8.0 (Ampere) and later; processors with matrix units for it (AMX).

    Others only emulate it, or do it no faster than fp32; torch says of them, too, that it is there.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older torch does not tell
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Matrix products in a resolved precision; all else as it is."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_DTYPES[precision])
