from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._fingerprints import same_slides
from hisdiff_sd._remote import is_url
from hisdiff_sd.io._qc_findings import LEVELS, Finding, findings_of, worst
from hisdiff_sd.io._store import check_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

_HEX = {"counts": re.compile(r"[0-9a-f ]*"), "image": re.compile(r"[0-9a-f]{512}")}
_COLUMNS = (
    *("slide", "level", "technology", "patient", "spots", "genes", "mpp", "mpp_source", "spot_pitch_um"),
    *("measured_pitch_um", "median_total", "empty_spots", "poor_spots", "on_glass", "alignment", "same_as"),
    *("errors", "warnings", "notes", "store"),
)


def qc_table(slides: Iterable[SpatialData | str | Path]) -> pd.DataFrame:
    """Say what is known of the quality of many slides, and which of them are one slide under two ids.

    Reads the attributes of the stores and nothing else.

    Parameters
    ----------
    slides
        Paths of stores, or slides.

    Returns
    -------
    A row per slide, in their order:

    ================================  =====================================================================
    slide                             its id, empty if the store could not be read
    level                             the worst finding: ``"ok"``, ``"note"``, ``"warning"`` or ``"error"``
    technology, patient               as the source says
    spots, genes                      their number
    mpp, mpp_source                   pixel size in um, and where it comes from
    spot_pitch_um, measured_pitch_um  distance of the spots in um, as declared and as measured
    median_total                      of the counts per spot, without spots that have none
    empty_spots, poor_spots           spots without a count, and with less than a tenth of the median
    on_glass                          share of the spots with counts that lie beside the tissue
    alignment                         ``"fits"``, ``"elsewhere"``, ``"undecided"``, or empty
    same_as                           other slides here that have the same counts or the same image
    errors, warnings, notes           findings (see `hd.io.qc`), separated by ``|``
    store                             the path
    ================================  =====================================================================

    Raises
    ------
    HisDiffError
        If one path is given instead of a list, or none.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> table = hd.io.qc_table([hd.io.hest(root, "S1"), hd.io.hest(root, "S2")])
    >>> table["warnings"].tolist()
    ['', '']
    """
    if isinstance(slides, str | Path) or hasattr(slides, "tables"):
        raise HisDiffError("slides= is one slide; give a list, or use hd.io.qc")
    records = [_record(slide) for slide in slides]
    if not records:
        raise HisDiffError("no slides given; a list of paths of stores is needed")
    found = [findings for _, findings, _ in records]
    shared = _shared([attrs for attrs, _, _ in records])
    for at, others in shared.items():
        advice = "one slide under two ids: leave one of them out"
        found[at].append(Finding("warning", "duplicate", "; ".join(others), advice))
    rows = [
        _row(attrs or {}, findings, store) | {"same_as": "; ".join(shared.get(at, []))}
        for at, ((attrs, _, store), findings) in enumerate(zip(records, found, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _record(slide: SpatialData | str | Path) -> tuple[dict[str, Any] | None, list[Finding], str]:
    """What a slide says of itself, or None; what was found, or why nothing could be; and where it lies."""
    store = str(slide) if isinstance(slide, str | Path) else str(slide.path or "")
    try:
        attrs = check_attrs(_attrs(slide))
        return attrs, findings_of(attrs), store
    except HisDiffError as error:  # one store that is broken does not hide the others
        return None, [Finding("error", "store", str(error), "")], store


def _attrs(slide: SpatialData | str | Path) -> Mapping[str, Any]:
    import zarr

    if not isinstance(slide, str | Path):
        return dict(slide.attrs)
    if not is_url(slide) and not Path(slide).exists():
        raise MissingFileError(f"no store {slide}; write one with hd.io.write")
    try:
        return zarr.open_group(str(slide), mode="r").attrs.asdict()
    except Exception as error:  # whatever zarr, or a server, raises
        raise HisDiffError(f"{slide} cannot be read as a SpatialData store: {error or type(error).__name__}") from error


def _shared(records: list[dict[str, Any] | None]) -> dict[int, list[str]]:
    """What other slides every slide is the same as, in words."""
    sketches = [((attrs or {}).get("qc") or {}).get("fingerprints") for attrs in records]
    names = [str((attrs or {}).get("slide", "")) for attrs in records]
    pairs = same_slides(*([_hex(s, kind) for s in sketches] for kind in ("counts", "image")))
    said: dict[int, list[str]] = {}
    for (i, j), what in pairs.items():
        for at, other in ((i, j), (j, i)):
            said.setdefault(at, []).append(f"{names[other]} (same {' and '.join(what)})")
    return said


def _hex(sketches: Any, kind: str) -> str:
    """A sketch of a slide; empty if there is none, or if it is none."""
    text = sketches.get(kind, "") if isinstance(sketches, Mapping) else ""
    whole = isinstance(text, str) and _HEX[kind].fullmatch(text)
    return text if whole else ""


def _row(attrs: Mapping[str, Any], findings: list[Finding], store: str) -> dict[str, Any]:
    qc = attrs.get("qc") or {}
    totals, fit = qc.get("totals") or {}, qc.get("alignment") or {}
    said = {f"{level}s": " | ".join(map(str, (f for f in findings if f.level == level))) for level in LEVELS[1:]}
    return {
        **{key: attrs.get(key, "") for key in ("slide", "technology", "patient", "mpp_source")},
        **{key: attrs.get(key) for key in ("mpp", "spot_pitch_um")},
        **{key: qc.get(key) for key in ("spots", "genes", "measured_pitch_um")},
        **{"median_total": totals.get("median"), "empty_spots": totals.get("empty"), "poor_spots": totals.get("low")},
        **{"on_glass": fit.get("on_glass"), "alignment": fit.get("verdict", "")},
        **said,
        "level": worst(findings),
        "store": store,
    }
