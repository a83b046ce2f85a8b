"""Micrometres per pixel: what an image file says of it, and whether that can be believed."""

from __future__ import annotations

import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._openslide import open_openslide
from hisdiff_sd.io._image import file_kind
from hisdiff_sd.io._tiff import opened, slide_series

if TYPE_CHECKING:
    import tifffile

# as OME-XML and ImageJ write them; case matters: Mm is a megametre
_UM = {
    **{"m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4},
    **{"inch": 25_400.0, "in": 25_400.0, "pt": 25_400 / 72, "micron": 1.0, "microns": 1.0, "micrometer": 1.0},
}
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_APERIO = re.compile(r"\|\s*MPP\s*=\s*([^|]*)")
_SQUARE = 1.02
_AGREES = 1.2
# a scanner's own figure, and one that any program may have left there: a printer's 72 to 1200 per inch is above 20 um
_BELIEVED_UM = {True: (0.02, 20.0), False: (0.1, 3.0)}


@dataclass(frozen=True)
class PixelSize:
    """What one part of a file says.

    Attributes
    ----------
    x, y
        Micrometres per level-0 px.
    source
        Which part.
    declared
        Whether that part is there for pixel sizes of microscopes; any program sets the resolution tags of a TIFF.
    """

    x: float
    y: float
    source: str
    declared: bool = True

    def __str__(self) -> str:
        return f"{self.x:.4g} um" if self.x == self.y else f"{self.x:.4g} x {self.y:.4g} um"

    @property
    def believed(self) -> bool:
        """Whether a slide can have such pixels."""
        low, high = _BELIEVED_UM[self.declared]
        return low <= min(self.x, self.y) and max(self.x, self.y) <= high


def choose(path: Path, found: list[PixelSize], looked_at: str, mpp: float | None) -> tuple[float, str]:
    """Micrometres per pixel and where they come from: what is given, else the first that can be believed.

    Parameters
    ----------
    path
        The image, for messages.
    found
        What the file says, the most trustworthy first.
    looked_at
        Where it was looked for.
    mpp
        What the user says.

    Raises
    ------
    HisDiffError
        If nothing can be believed, or pixels are not square.
    """
    own = next((size for size in found if size.believed), None)
    if mpp is not None:
        if own is not None and max(max(v / mpp, mpp / v) for v in (own.x, own.y)) > _AGREES:
            warnings.warn(
                f"{path}: mpp={mpp:.4g} was given, the file says {own} per px ({own.source}); {mpp:.4g} is used",
                HisDiffWarning,
                stacklevel=3,
            )
        return mpp, "given"
    if own is None:
        odd = "".join(f"; {size.source}: {size} per px, which no slide has" for size in found)
        raise HisDiffError(
            f"{path} does not say how large a pixel is (looked at: {looked_at}{odd}); give mpp=, micrometres per "
            "level-0 px: about 0.25 for a scan at 40x, 0.5 at 20x"
        )
    if max(own.x, own.y) > _SQUARE * min(own.x, own.y):
        raise HisDiffError(
            f"{path}: pixels are {own.x:.4g} um wide and {own.y:.4g} um high ({own.source}), square ones are needed; give "
            "mpp= if one of the two is wrong, or else resample the image"
        )
    return (own.x + own.y) / 2, own.source


def of_file(path: Path) -> list[PixelSize]:
    """What an image file says, the most trustworthy first; PNG and JPEG say nothing."""
    kind = file_kind(path)
    if kind == "tiff":
        return of_tiff(path)
    return of_openslide(open_openslide(path).properties) if kind == "openslide" else []


def by_source(found: list[PixelSize]) -> dict[str, float]:
    """Micrometres per level-0 px by source, without the resolutions of printers."""
    return {s.source: (s.x + s.y) / 2 for s in found if replace(s, declared=True).believed}


def of_tiff(path: Path) -> list[PixelSize]:
    """What a TIFF says of its slide: OME-XML, Aperio's description, ImageJ's unit, resolution tags."""
    with opened(path) as tif:
        page = tif.series[slide_series(tif)].keyframe
        imagej = (tif.imagej_metadata or {}).get("unit")
        tags = _RESOLUTION_UNITS.get(page.tags.valueof(296, 2))
        found = [
            _ome(tif.ome_metadata or "", page.imagewidth, page.imagelength),
            _aperio(page.description),
            _per_unit(page, imagej, "ImageJ metadata"),
            _per_unit(page, tags, "TIFF resolution tags", declared=False),
        ]
    return [size for size in found if size is not None]


def of_openslide(properties: Mapping[str, str]) -> list[PixelSize]:
    """What OpenSlide has found in a scanner's file."""
    # of a TIFF of no maker it reports the resolution tags
    declared = properties.get("openslide.vendor") != "generic-tiff"
    x, y = (in_um(properties.get(f"openslide.mpp-{axis}"), "um") for axis in "xy")
    found = _both(x, y, "OpenSlide", declared=declared)
    return [] if found is None else [found]


def in_um(value: Any, unit: str | None) -> float | None:
    """A length in micrometres; None where it is none, or its unit is none of length."""
    factor = _UM.get(str(unit).replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u"))
    try:
        length = float(str(value).strip().replace(",", ".")) * (factor or math.nan)
    except ValueError:
        return None
    return length if math.isfinite(length) and length > 0 else None


def _both(x: float | None, y: float | None, source: str, *, declared: bool = True) -> PixelSize | None:
    return None if x is None or y is None else PixelSize(x, y, source, declared)


def _ome(xml: str, width: int, height: int) -> PixelSize | None:
    """PhysicalSizeX and Y of the OME image that has the slide's size: labels and macro images have their own."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:  # none, or damaged: tifffile reads the pixels without it
        return None
    for pixels in root.iter():
        size = pixels.get("SizeX"), pixels.get("SizeY")
        if pixels.tag.rpartition("}")[2] == "Pixels" and size == (str(width), str(height)):
            x, y = (in_um(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "um")) for a in "XY")
            return _both(x, y, "OME-XML")
    return None


def _aperio(description: str) -> PixelSize | None:
    """``MPP`` of an Aperio ImageDescription, with a decimal comma where the scanner was set up so."""
    written = _APERIO.search(description) if description.startswith("Aperio") else None
    mpp = in_um(written.group(1), "um") if written else None
    return _both(mpp, mpp, "Aperio ImageDescription")


def _per_unit(page: tifffile.TiffPage, unit: str | None, source: str, *, declared: bool = True) -> PixelSize | None:
    """The resolution tags, which count pixels per unit."""
    pairs = [page.tags.valueof(code) for code in (282, 283)]
    if not all(isinstance(p, tuple) and len(p) == 2 and all(p) for p in pairs):
        return None
    x, y = (in_um(d / n, unit) for n, d in pairs)
    return _both(x, y, source, declared=declared)
