from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass
class Settings:
    """What a user sets once per session.

    Attributes
    ----------
    model
        Model that `hd.tl.predict` uses when none is given: a folder or a Hugging Face hub id.
        Starts as the environment variable ``HISDIFF_SD_MODEL``.
    device
        Torch device for encoders and networks; ``"auto"`` takes a GPU where there is one.
        Starts as the environment variable ``HISDIFF_SD_DEVICE``.
    lock_seconds
        How long a writer waits for another process that writes to the same store, before it says who that is.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> before, hd.settings.device = hd.settings.device, "cpu"
    >>> hd.encoders.load("morphology").device
    device(type='cpu')
    >>> hd.settings.device = before
    """

    model: str | None = field(default_factory=lambda: os.environ.get("HISDIFF_SD_MODEL") or None)
    device: str = field(default_factory=lambda: os.environ.get("HISDIFF_SD_DEVICE") or "auto")
    lock_seconds: float = 60.0


settings = Settings()
