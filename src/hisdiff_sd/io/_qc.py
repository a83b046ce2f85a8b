from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd.io._qc_findings import LEVELS, Finding, Level, findings_of, worst
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

_OUTSIDE = (0.1, 0.5)  # share of the spots outside the outlines: from here on a note, a warning


@dataclass(frozen=True)
class QualityReport:
    """What is known of the quality of a slide; printed, it is a text.

    Attributes
    ----------
    slide
        Id of the slide.
    findings
        What was looked at; what was not looked at is left out.
    """

    slide: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst level: ``"ok"``, ``"note"``, ``"warning"`` or ``"error"``."""
        return worst(list(self.findings))

    @property
    def table(self) -> pd.DataFrame:
        """A row per finding: ``level``, ``name``, ``value``, ``advice``."""
        return pd.DataFrame([vars(f) for f in self.findings], columns=["level", "name", "value", "advice"])

    def of(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    def __str__(self) -> str:
        counted = ", ".join(f"{len(self.of(k))} {k}{'s' * (len(self.of(k)) != 1)}" for k in LEVELS[:0:-1])
        wide = max((len(f.name) for f in self.findings), default=0)
        lines = [f"Slide {self.slide}: {counted}"]
        for finding in self.findings:
            lines.append(f"{finding.level:8}{finding.name:{wide}}  {finding.value}")
            if finding.advice:
                lines.append(f"{'':{wide + 10}}-> {finding.advice}")
        return "\n".join(lines)

    __repr__ = __str__


def qc(sdata: SpatialData | str | Path) -> QualityReport:
    """Say what is known of the quality of a slide.

    The readers of `hd.io` measure it and keep it in ``sdata.attrs["hisdiff_sd"]["qc"]``; here it is put into words, so that
    no pixel and no count is read again. The pixel size by every source, the measured distance of the spots, spots beside the
    image and the tissue, how well counts and image fit as placed, raw counts or not, totals, names of genes, control probes,
    the patient, and slides of HEST-1k that are known to be bad. If the tissue is outlined, how many spots lie in it.

    Parameters
    ----------
    sdata
        A slide of `hd.io`, or the path of its store.

    Returns
    -------
    The report. Print it, or take its ``findings``, ``level`` and ``table``.

    Raises
    ------
    MissingFileError
        If there is no such store.
    HisDiffError
        If it was not made by this package.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> report = hd.io.qc(hd.io.hest(root, "S1"))
    >>> report.of("warning")
    []
    """
    from hisdiff_sd._open import open_without_pixels  # which needs hisdiff_sd.io itself

    slide = open_without_pixels(sdata)
    attrs = slide_attrs(slide)
    return QualityReport(str(attrs["slide"]), (*findings_of(attrs), *_tissue(slide)))


def _tissue(sdata: SpatialData) -> list[Finding]:
    """How many spots lie in the outlines of the tissue, if there are any."""
    import shapely

    if keys.TISSUE not in sdata.shapes or keys.SPOTS not in sdata.shapes or not len(sdata.shapes[keys.SPOTS]):
        return []
    centres = shapely.get_coordinates(sdata.shapes[keys.SPOTS].geometry.centroid)
    outlines = shapely.union_all(sdata.shapes[keys.TISSUE].geometry.to_numpy())
    n = int((~np.asarray(shapely.intersects_xy(outlines, *centres.T))).sum())
    share = n / len(centres)
    level: Level = "warning" if share > _OUTSIDE[1] else "note" if share > _OUTSIDE[0] else "ok"
    value = f"{n} of {len(centres)} lie outside of its outlines"
    return [Finding(level, "spots outside the tissue", value, "look at hd.pl.tissue" if level != "ok" else "")]
