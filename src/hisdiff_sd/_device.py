"""Which torch device the work runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._settings import settings


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device that this torch can use.

    Parameters
    ----------
    device
        A torch device (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``) or ``"auto"``: what `hd.settings.device` says and,
        where that is ``"auto"`` too, the first of CUDA, MPS and CPU that is there.

    Returns
    -------
    The device.

    Raises
    ------
    HisDiffError
        If the name is no device, or a device that this machine or this build of torch does not have.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    name = str(device)
    if name == "auto":
        name = settings.device
    if name == "auto":
        return torch.device(_present()[0])
    try:
        resolved = torch.device(name)
    except RuntimeError as error:
        raise HisDiffError(f"no device {name!r}; give 'auto' or one of: {_listed()}") from error
    index = resolved.index or 0
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if resolved.type in counts and index >= counts[resolved.type]:
        raise HisDiffError(
            f"device {name!r} is not there: torch {torch.__version__} sees {counts[resolved.type]} device(s) of type "
            f"{resolved.type!r}. Give device='auto' or one of: {_listed()}; for a GPU, install its driver and a torch "
            "build that fits it"
        )
    return resolved


def _present() -> list[str]:
    """Device names that work here, the fastest first."""
    names = [f"cuda:{i}" if i else "cuda" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def _listed() -> str:
    return ", ".join(repr(name) for name in _present())


@contextmanager
def threads_kept() -> Iterator[None]:
    """Keep torch's number of threads: the first use of numba sets it to all cores, whatever the user has set."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 for zero meanwhile: a processor is tens of times slower on them, and decay makes many."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
