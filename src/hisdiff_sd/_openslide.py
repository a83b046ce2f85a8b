"""Slides that OpenSlide reads, region by region; the package is needed only by whoever has such files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError

if TYPE_CHECKING:
    import openslide
    import PIL.Image


def open_openslide(path: str | Path) -> openslide.OpenSlide:
    """The open slide: one handle per file and process, which threads share."""
    file = os.path.abspath(path)
    return _opened(file, os.stat(file).st_mtime_ns)


def read_region(path: str | Path, y: int, x: int, height: int, width: int) -> np.ndarray:
    """A window of level 0, uint8 (height, width, 3); what was not scanned is white."""
    region = open_openslide(path).read_region((x, y), 0, (width, height))
    return np.asarray(on_white(region))


def on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    """An RGBA picture laid on white, as RGB: transparent means no tissue, and its colour is often black."""
    from PIL import Image

    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


@lru_cache(maxsize=4)
def _opened(file: str, changed: int) -> openslide.OpenSlide:
    try:
        import openslide
    except ImportError as error:
        raise HisDiffError(f"OpenSlide is needed to read {file}: pip install openslide-python openslide-bin") from error
    try:
        return openslide.OpenSlide(file)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise HisDiffError(
            f"{file} cannot be read by OpenSlide ({error}), and its ending is none of .svs, .tif, .tiff, .btf, .png, .jpg"
        ) from error
    except openslide.OpenSlideError as error:
        raise HisDiffError(
            f"{file} cannot be read by OpenSlide ({error}); it may be incomplete: copy it again"
        ) from error
