"""What the facts of a slide mean: findings, each with a level, a value and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hisdiff_sd._errors import HisDiffError, reason

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")

SPOT_GRID = "spot grid"  # a source of pixel sizes: the distance of the spots

_AGREES = 1.2  # pixel sizes of two sources
_PITCH = 0.15
_PLAUSIBLE_UM = (0.1, 3.0)
_GLASS = (0.05, 0.15)  # share of spots with counts: from here on a note, a warning
_EMPTY, _LOW = 0.05, 0.2  # share of the spots
_CONSTANT = 0.01  # spread of totals that were normalised
_LOG = 30.0  # highest value of counts after a logarithm
_FEW = 0.05  # patches that lie elsewhere

# of HEST-1k, as its users reported them
_MISALIGNED = "spots and image are known to be misaligned"
_NO_100_UM = "its bins are known not to be 100 um"
_KNOWN: dict[str, list[tuple[Level, str]]] = {
    "NCBI784": [("error", _MISALIGNED), ("warning", _NO_100_UM)],
    "MISC128": [("error", _MISALIGNED)],
    "MISC129": [("error", _MISALIGNED)],
    "TENX122": [("warning", _NO_100_UM)],
    "TENX155": [("warning", "it is the same slide as TENX128")],
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    level
        ``"ok"``; ``"note"``: good to know; ``"warning"``: look before you use the slide; ``"error"``: do not use it as it is.
    name
        What was looked at.
    value
        What was found.
    advice
        What to do; empty if there is nothing to do.
    """

    level: Level
    name: str
    value: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" + (f"; {self.advice}" if self.advice else "")


def worst(findings: list[Finding]) -> Level:
    """The highest level of some findings."""
    return max((f.level for f in findings), key=LEVELS.index, default="ok")


def findings_of(attrs: Mapping[str, Any]) -> list[Finding]:
    """What the record of a slide (``sdata.attrs["hisdiff_sd"]``) says; what was not looked at is left out.

    Raises
    ------
    HisDiffError
        If values of it are of no use.
    """
    try:
        found = dict(attrs.get("qc") or {})
        return [finding for check in _CHECKS for finding in check(attrs, found)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a store of others, edited
        raise HisDiffError(
            f"slide {attrs.get('slide')!r} has a damaged record (attrs['hisdiff_sd']['qc']: {reason(error)}); read it again"
        ) from error


def _known(attrs: Mapping[str, Any], _: dict[str, Any]) -> Iterator[Finding]:
    for level, what in _KNOWN.get(str(attrs.get("slide", "")), []):
        yield Finding(level, "known trouble", what, "leave it out of training and judging")


def _pixel_size(attrs: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    mpp, source = float(attrs["mpp"]), attrs.get("mpp_source") or "an unknown source"
    low, high = _PLAUSIBLE_UM
    value = f"{mpp:.4g} um per px ({source})"
    if low <= mpp <= high:
        yield Finding("ok", "pixel size", value)
    else:
        advice = "slides have 0.1 to 3 um; give mpp= if it is wrong"
        yield Finding("warning", "pixel size", value, advice)
    others = {k: float(v) for k, v in (found.get("pixel_sizes") or {}).items() if k != source}
    if not others:
        return
    said = ", ".join(f"{v:.4g} um ({k})" for k, v in others.items())
    odd = [k for k, v in others.items() if max(v / mpp, mpp / v) > _AGREES]
    if not odd:
        yield Finding("ok", "other pixel sizes", f"they agree: {said}")
    elif SPOT_GRID in others and SPOT_GRID not in odd:
        advice = f"the distance of the spots confirms {mpp:.4g} um"
        yield Finding("note", "other pixel sizes", f"{', '.join(odd)} differ: {said}", advice)
    else:
        advice = "measure something known on the slide, and give mpp="
        yield Finding("warning", "other pixel sizes", f"{', '.join(odd)} differ from {mpp:.4g} um: {said}", advice)


def _image_size(attrs: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    if found.get("declared_size"):
        (height, width), (high, wide) = attrs["true_size"], found["declared_size"]
        value = f"{width} x {height} px, the metadata say {wide} x {high}"
        yield Finding("warning", "image size", value, "if it was scaled the spots lie elsewhere: fetch the image again")


def _pitch(attrs: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    measured, declared = found.get("measured_pitch_um"), found.get("declared_pitch_um") or attrs.get("spot_pitch_um")
    if measured is None or not declared:
        return
    value = f"{measured:.4g} um measured, {declared:g} um declared"
    good = abs(measured / declared - 1) < _PITCH
    yield Finding(
        *(("ok", "spot pitch", value) if good else ("warning", "spot pitch", value, "check the pixel size: mpp="))
    )


def _places(_: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    if "spots_outside_image" in found:
        n = int(found["spots_outside_image"])
        yield Finding(
            "warning" if n else "ok",
            "spots outside the image",
            f"{n}, dropped" if n else "none",
            "are image and counts of one slide?" if n else "",
        )
    fit = found.get("alignment") or {}
    if "on_glass" in fit:
        share = float(fit["on_glass"])
        level: Level = "warning" if share >= _GLASS[1] else "note" if share >= _GLASS[0] else "ok"
        advice = "look at hd.pl.tissue: are the spots where the tissue is?" if level != "ok" else ""
        yield Finding(level, "spots on glass", f"{share:.0%} of the spots with counts lie beside the tissue", advice)
    if "verdict" not in fit:
        return
    here = f"fit of counts and image {fit['fit']:.2f} as placed, {fit['usual']:.2f} elsewhere"
    if fit["verdict"] == "fits":
        yield Finding("ok", "alignment", here)
    elif fit["verdict"] == "undecided":
        yield Finding(
            "note", "alignment", f"undecided: {here}", "draw a gene on the tissue and look: sq.pl.spatial_scatter"
        )
    else:
        value = f"the spots fit better {fit['best']}: fit {fit['best_fit']:.2f}, as placed {fit['fit']:.2f}"
        yield Finding("warning", "alignment", value, "do not use the slide before the spots are where they belong")


def _patches(_: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    about = found.get("patches") or {}
    if about:
        n, moved, unknown = (int(about[k]) for k in ("compared", "moved", "unknown"))
        bad = moved > _FEW * max(n, 1) or unknown > _FEW * (n + unknown)
        value = f"{moved} of {n} do not lie on their spots, {unknown} have an unknown barcode"
        advice = "patches and counts are of different versions, or the pixel size has changed: take tiles of the slide"
        yield Finding(*(("warning", "patches", value, advice) if bad else ("ok", "patches", value)))


def _counts(attrs: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    totals = found.get("totals") or {}
    if "integer_counts" in found:
        if found["integer_counts"]:
            yield Finding("ok", "counts", "whole numbers")
        elif 0 < float(found.get("highest_count", _LOG)) < _LOG:
            value = (
                f"the counts are not whole numbers and at most {found['highest_count']:.3g}: normalised, or logarithms"
            )
            yield Finding("error", "counts", value, "raw counts are needed")
        else:
            yield Finding(
                "warning", "counts", "the counts are not whole numbers; were they normalised?", "use raw counts"
            )
    if not totals:
        return
    value = f"median {totals['median']:.5g}, {totals['lowest']:.5g} to {totals['highest']:.5g} per spot"
    differ = int(found.get("totals_differ") or 0)
    if found["spots"] > 1 and totals["median"] > 0 and totals["spread"] < _CONSTANT:
        yield Finding(
            "error", "totals", f"all spots have the same total ({value}): normalised", "raw counts are needed"
        )
    elif differ:
        value = f"{differ} of {found['spots']} spots have other totals than obs['total_counts'] says ({value})"
        yield Finding("warning", "totals", value, "counts may have been cut off when bins were pooled; compare")
    elif attrs.get("technology") == "Visium HD" and found.get("totals_differ", 0) is None:  # pooled by HEST
        yield Finding("note", "totals", f"{value}; pooled bins of Visium HD are suspect", "compare with the original")
    else:
        yield Finding("ok", "totals", value)
    yield from _poor_spots(found["spots"], totals)


def _poor_spots(n: int, totals: dict[str, Any]) -> Iterator[Finding]:
    empty, low = int(totals["empty"]), int(totals["low"])
    if empty:
        level: Level = "error" if empty == n else "warning" if empty > _EMPTY * n else "note"
        yield Finding(level, "empty spots", f"{empty} of {n} have no count at all", "leave them out of training")
    else:
        yield Finding("ok", "empty spots", "none")
    if low:
        value = f"{low} of {n} have less than a tenth of the median total"
        yield Finding(
            "warning" if low > _LOW * n else "note", "poor spots", value, "what is measured there is mostly noise"
        )
    else:
        yield Finding("ok", "poor spots", "none has less than a tenth of the median total")


def _genes(_: Mapping[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    names = found.get("gene_names") or {}
    if names:
        yield _gene_names(str(found.get("gene_id_type", "")), names)
    if "duplicated_genes" in found:
        twice = list(found["duplicated_genes"])
        listed = f"{len(twice)} ({', '.join(twice[:5])}{' ...' * (len(twice) > 5)}), their counts were summed"
        yield Finding("note" if twice else "ok", "duplicated genes", listed if twice else "none")
    if "control_probes" in found:
        n = int(found["control_probes"])
        done = "kept, marked in var['control']" if found.get("control_probes_kept") else "dropped"
        yield Finding("note" if n else "ok", "control probes", f"{n}, {done}" if n else "none")


def _gene_names(kind: str, names: dict[str, Any]) -> Finding:
    wanted, left = str(names["wanted"]), int(names["not_known"])
    said = ["Ensembl ids" if kind == "ensembl" else "symbols"]
    if names["renamed"]:
        said.append(f"{names['renamed']} of {names['in_file']} named by var[{names['from']!r}]")
    if names["versions_removed"]:
        said.append(f"{names['versions_removed']} without their version")
    if left:
        other = "symbol" if wanted == "symbols" else "Ensembl id"
        said.append(f"{left} have no {other} in the file and stay ({', '.join(names['not_known_examples'])})")
    mixed = wanted != "file" and kind != {"symbols": "symbol", "ids": "ensembl"}[wanted]
    advice = (
        f"the file does not say the {'symbols' if wanted == 'symbols' else 'ids'}: train with slides of the same names"
    )
    changed = names["renamed"] or names["versions_removed"]
    return Finding("note" if mixed or changed else "ok", "gene names", "; ".join(said), advice if mixed else "")


def _about(attrs: Mapping[str, Any], _: dict[str, Any]) -> Iterator[Finding]:
    if attrs.get("patient"):
        yield Finding("ok", "patient", "known")  # the report is made to be sent on: it does not name the patient
    else:
        advice = "slides of one patient may end up in training and test: sdata.attrs['hisdiff_sd']['patient']"
        yield Finding("note", "patient", "unknown", advice)


_CHECKS: tuple[Callable[[Mapping[str, Any], dict[str, Any]], Iterator[Finding]], ...] = (
    *(_known, _pixel_size, _image_size, _pitch, _places, _patches),
    *(_counts, _genes, _about),
)
