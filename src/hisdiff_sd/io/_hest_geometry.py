"""Spots and bins of the technologies in HEST-1k: how large they are, how far apart, as declared."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.io._metadata import number


@dataclass(frozen=True)
class Geometry:
    """Of the spots of a slide, in um.

    Attributes
    ----------
    diameter_um
        Of a spot; side of a square bin.
    pitch_um
        Distance of neighbours.
    bins
        Whether HEST made square bins of something finer: transcripts (Xenium), bins of 16 um (Visium HD).
    """

    diameter_um: float
    pitch_um: float
    bins: bool = False


TECHNOLOGIES = {
    "Visium": Geometry(55.0, 100.0),
    "Spatial Transcriptomics": Geometry(100.0, 200.0),
    "Visium HD": Geometry(128.0, 128.0, bins=True),
    "Xenium": Geometry(100.0, 100.0, bins=True),
}


def declared_geometry(metadata: dict[str, Any], slide: str, root: Path) -> tuple[str, Geometry]:
    """The technology of a slide, and the geometry that its metadata say it has.

    What they say of bins is not used: it is blank or wrong (2 um for Visium HD, spots of 55 um for Xenium), and bins can
    be measured.
    """
    technology = str(metadata.get("st_technology", ""))
    if technology not in TECHNOLOGIES:
        raise HisDiffError(
            f"slide {slide!r} is of technology {technology or 'unknown'!r} (st_technology in the metadata of {root}); "
            f"slides that can be read are of: {', '.join(TECHNOLOGIES)}"
        )
    usual = TECHNOLOGIES[technology]
    if usual.bins:
        return technology, usual
    diameter, pitch = number(metadata, "spot_diameter"), number(metadata, "inter_spot_dist")
    if diameter is not None and pitch is not None and diameter > pitch:
        # of the arrays with spots of 110 um, 150 um apart, the metadata have it the other way round
        warnings.warn(
            f"slide {slide}: the metadata say that spots of {diameter:g} um lie {pitch:g} um apart, so that they overlap; "
            f"the two are taken to be exchanged: spots of {pitch:g} um, {diameter:g} um apart",
            HisDiffWarning,
            stacklevel=3,
        )
        diameter, pitch = pitch, diameter
    return technology, Geometry(diameter or usual.diameter_um, pitch or usual.pitch_um)
