"""The words and tables of the report of one slide; its pictures come ready-made from `hd.pl.report`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._html import RESEARCH_USE, facts, page, percent, picture, scrolled
from hisdiff_sd._slide_facts import code, made, quality
from hisdiff_sd._targets import UNITS
from hisdiff_sd._trust import FALSE_DISCOVERY, LOWEST_PCC
from hisdiff_sd._version import __version__
from hisdiff_sd.io._qc import QualityReport

_LIKE, _PARTLY = 0.9, 0.5  # share of trusted tiles from which a slide is like the training slides, or partly
_BADGES = {True: ("go", "✓ reliable"), False: ("no", "✗ not reliable"), None: ("unknown", "? unknown")}
_LEVELS = {
    "ok": ("go", "✓ ok"),
    "note": ("unknown", "• note"),
    "warning": ("no", "⚠ warning"),
    "error": ("no", "✗ error"),
}
_COLUMNS = {
    "r": ("r, left-out slides", "correlation with the measurement on training slides that were left out", 2),
    "q": ("q", "false discovery rate of that correlation", 3),
    "here": ("r, this slide", "correlation with what was measured on this slide", 2),
    "mean": ("mean", "mean predicted expression of the slide", 2),
    "varies": ("spread over tissue", "standard deviation of the prediction from place to place", 2),
    "std": ("uncertainty", "mean standard deviation over the samples", 2),
}
_STYLE = """
header { border-bottom: 3px solid var(--go); padding-bottom: .8rem }
header p { margin: .2rem 0 }
.cards { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); padding: 0; list-style: none }
.cards li { background: var(--card); border-radius: 6px; padding: .6rem .8rem }
.cards b { display: block; font-size: 1.5rem; line-height: 1.2 }
.maps { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); align-items: start }
.maps.wide { grid-template-columns: 1fr }
.one img { max-height: 36rem; width: auto }
h3 small { font-weight: 400 }
.genes tbody th { font-weight: 600 }
.badge { display: inline-block; border-radius: 4px; padding: 0 .45rem; font-size: .85rem; font-weight: 600; white-space: nowrap }
.go { color: var(--go); background: var(--go-back) }
.no { color: var(--no); background: var(--no-back) }
.unknown { color: var(--unknown); background: var(--unknown-back) }
.genes { max-height: 34rem; overflow: auto }
.genes thead th { position: sticky; top: 0; background: var(--page) }
.genes td:nth-child(2), .genes th:nth-child(2), caption { text-align: left }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit;
  text-decoration: underline dotted }
th[aria-sort=ascending] button::after { content: " ▲" }
th[aria-sort=descending] button::after { content: " ▼" }
@media print {
  .genes { max-height: none; overflow: visible }
  .maps:not(.wide) { grid-template-columns: repeat(3, 1fr) }
  .maps { break-inside: avoid }
}
"""
# the table is whole without it: the script only turns its headings into buttons
_SCRIPT = """<script>
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button'; button.textContent = head.textContent; head.replaceChildren(button);
    button.onclick = () => {
      const now = head.getAttribute('aria-sort'), down = now ? now === 'ascending' : column > 1;
      heads.forEach(h => h.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === '' || y === '') return (x === '') - (y === '');  // unknown stays below
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
  });
}
</script>"""


@dataclass(frozen=True)
class Picture:
    """An image file in memory, what it shows in words, and what stands below it."""

    content: bytes
    alt: str
    caption: str = ""
    kind: str = "webp"

    def __str__(self) -> str:
        return picture(self.content, self.alt, self.caption, self.kind)


@dataclass(frozen=True)
class SlideReport:
    """Everything that the report of a slide says.

    Attributes
    ----------
    attrs, record
        What the store says of its slide, and the provenance of the prediction.
    table, shapes
        Names of the prediction and of the shapes it annotates.
    places
        What these are: "spots" or "tiles".
    n
        Number of them that have a prediction.
    spacing_um, spot_um
        Their distance, if it is known, and the diameter of the spots they are or stand for.
    tissue_mm2
        Area of the tissue; None if it was not outlined.
    trusted_share
        Share of them that is like the training slides; None if unknown.
    ood_median
        Their median distance from the training slides; None if unknown.
    genes
        One row per gene: ``reliable`` (bool or None), and floats (NaN if unknown) ``r``, ``q``, ``here``, ``mean``,
        ``varies``, ``std``.
    overview, reliability, ood
        Pictures; None for what is unknown.
    wide
        Whether the maps are too wide to stand beside each other.
    maps
        Pictures of the genes that are shown: measured, if it was, predicted and uncertainty.
    store
        Name of the store, or of the slide where there is none.
    qc
        What was found of the quality of the slide.
    """

    attrs: Mapping[str, Any]
    record: Mapping[str, Any]
    table: str
    shapes: str
    places: str
    n: int
    spacing_um: float | None
    spot_um: float
    tissue_mm2: float | None
    trusted_share: float | None
    ood_median: float | None
    genes: pd.DataFrame
    overview: Picture
    reliability: Picture | None
    ood: Picture | None
    wide: bool
    maps: Mapping[str, Sequence[Picture]]
    store: str
    qc: QualityReport


_INDEPENDENT = {
    keys.TRAINED_ON: "The model was trained on this slide: what it says of it is no test of anything.",
    keys.WITHIN_PATIENT: "The model was trained on slides of the same patient: how well it does here says little about other "
    "patients, stains or scanners.",
}


def slide_page(report: SlideReport) -> str:
    """The whole page."""
    slide = str(report.attrs["slide"])
    # the page is made to be sent on: it does not name the patient
    about = [str(report.attrs[k]) for k in ("organ", "species", "technology") if report.attrs.get(k)]
    body = f"""<header>
<h1>Predicted expression of slide {escape(slide)}</h1>
<p>{escape(", ".join(about))}</p>
<p class="warning">{RESEARCH_USE}</p>
</header>
<main>
<section><h2>In short</h2>{_summary(report)}</section>
<section><h2>The slide</h2><div class="one">{report.overview}</div></section>
<section><h2>Maps</h2>{_maps(report)}</section>
<section><h2>Which genes to believe</h2>{_genes(report)}</section>
<section><h2>Where to believe them</h2>{_trust(report)}</section>
<section><h2>Quality control</h2>{_findings(report)}{facts(quality(report))}</section>
<section><h2>Provenance</h2>{facts(made(report))}</section>
<section><h2>How to reproduce it</h2><pre>{escape(code(report))}</pre></section>
</main>
<footer><p class="note">{RESEARCH_USE} Written by hisdiff_sd {__version__} on {datetime.date.today():%Y-%m-%d}.</p></footer>
{_SCRIPT}"""
    return page(f"{slide}: predicted expression", body, _STYLE)


def _summary(report: SlideReport) -> str:
    """The four figures that matter, and what they mean."""
    known = [v for v in report.genes["reliable"] if v is not None]
    apart = "" if report.spacing_um is None else f", {report.spacing_um:.0f} µm apart"
    shown = [
        (f"{report.n:,}", f"{report.places} with a prediction{apart}"),
        (str(len(report.genes)), "genes predicted"),
        (f"{sum(known)} of {len(report.genes)}" if known else "unknown", "genes reliable on left-out training slides"),
        (_share(report), f"of the {report.places} trusted: like the training slides"),
    ]
    cards = "".join(f"<li><b>{escape(figure)}</b>{escape(words)}</li>" for figure, words in shown)
    doubted = report.trusted_share is not None and report.trusted_share < _PARTLY
    words = [(_verdict(report), doubted), (_advice(known), bool(known) and not any(known))]
    if (known_to := _INDEPENDENT.get(str(report.record.get("protocol")))) is not None:
        words.append((known_to, True))
    bad = [f.name for f in report.qc.findings if f.level in ("warning", "error")]
    if bad:
        words.append((f"Quality control warns of this slide: {', '.join(bad)}. See below before you use it.", True))
    said = "".join(f"<p{' class=warning' if warn else ''}>{escape(text)}</p>" for text, warn in words)
    return f"<ul class='cards'>{cards}</ul>{said}"


def _share(report: SlideReport) -> str:
    return "unknown" if report.trusted_share is None else percent(report.trusted_share)


def _verdict(report: SlideReport) -> str:
    """Whether the slide as a whole is like those the model knows."""
    if report.trusted_share is None:
        return (
            "It is unknown how much this slide is like the training slides: the model does not bring what is needed to tell. "
            "Treat the maps as a guess."
        )
    share = f"{percent(report.trusted_share)} of its {report.places} are within what the model knows"
    if report.ood_median is not None:
        share += f" (median distance {report.ood_median:.2f}, where 1 is the border)"
    if report.trusted_share >= _LIKE:
        return f"This slide is like the training slides: {share}."
    if report.trusted_share >= _PARTLY:
        return f"This slide is partly unlike the training slides: only {share}. Elsewhere no value is shown."
    return f"Most of this slide is unlike the training slides: only {share}. Do not rely on this prediction."


def _advice(known: list[bool]) -> str:
    if not known:
        return "It is unknown which genes the model predicts well: it was not judged on left-out slides."
    if not any(known):
        return (
            "No gene is reliable: the model did not predict them on training slides that it had not seen. Do not draw "
            "conclusions from their maps."
        )
    return (
        f"A gene is called reliable if the model predicted it on training slides that it had not seen: r = {LOWEST_PCC:g} or "
        f"more, false discovery rate {FALSE_DISCOVERY:g} or less. Do not draw conclusions from the maps of other genes."
    )


def _maps(report: SlideReport) -> str:
    reliability = report.genes["reliable"].to_dict()
    note = (
        "Measured, where it was, and predicted share one colour scale. Uncertainty is the standard deviation over the samples "
        "of the model."
    )
    if report.trusted_share is not None:
        mark = "spots are hollow" if report.places == "spots" else "tiles are pale and hatched"
        note += f" Where the tissue is unlike the training slides no value is shown: {mark}."
    parts = [f"<p class='note'>{note}</p>"]
    for gene, pictures in report.maps.items():
        r = report.genes.loc[gene, "r"]
        about = "" if pd.isna(r) else f" r = {r:.2f} on left-out slides"
        parts.append(
            f"<section><h3>{escape(gene)} {_badge(reliability[gene])}<small class='note'>{about}</small></h3>"
            f"<div class='maps{' wide' if report.wide else ''}'>{''.join(map(str, pictures))}</div></section>"
        )
    return "".join(parts)


def _findings(report: SlideReport) -> str:
    """What the QC of the slide found."""
    rows = []
    for finding in report.qc.findings:
        kind, word = _LEVELS[finding.level]
        text = finding.value + (f" ({finding.advice})" if finding.advice else "")
        badge = f"<span class='badge {kind}'>{word}</span>"
        rows.append(f"<tr><th scope='row'>{escape(finding.name)}</th><td>{badge} {escape(text)}</td></tr>")
    return f"<table class='facts'><tbody>{''.join(rows)}</tbody></table>"


def _badge(reliable: bool | None) -> str:
    kind, words = _BADGES[reliable]
    return f"<span class='badge {kind}'>{words}</span>"


def _genes(report: SlideReport) -> str:
    """The go / no-go list: a figure, and every gene with its scores."""
    shown = [c for c in _COLUMNS if report.genes[c].notna().any()]
    head = "".join(f"<th scope='col' title='{escape(_COLUMNS[c][1])}'>{escape(_COLUMNS[c][0])}</th>" for c in shown)
    order = "the best" if "r" in shown else "those that vary most"
    rows = []
    for gene, row in report.genes.iterrows():
        cells = "".join(_cell(row[c], _COLUMNS[c][2]) for c in shown)
        rows.append(f"<tr><th scope='row'>{escape(str(gene))}</th><td>{_badge(row['reliable'])}</td>{cells}</tr>")
    table = (
        f"<table class='sortable'><caption class='note'>All genes, {order} first</caption><thead><tr><th scope='col'>gene</th>"
        f"<th scope='col'>verdict</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    meaning = "; ".join(f"{_COLUMNS[c][0]}: {_COLUMNS[c][1]}" for c in shown)
    words = f"{meaning}. Expression in {UNITS[report.record['target']]}."
    listed = scrolled(table, "table of genes", "genes")
    chart = "" if report.reliability is None else scrolled(str(report.reliability), "chart of the genes", "chart")
    return f"{chart}<p class='note'>{escape(words)}</p>{listed}"


def _cell(value: float, digits: int) -> str:
    if pd.isna(value):
        return "<td data-v=''>unknown</td>"
    # of figures that are never below 0 a small one is told from none
    shown = f"<{10**-digits:g}" if digits > 2 and 0 < value < 10**-digits else f"{value:.{digits}f}"
    return f"<td data-v='{value:.6g}'>{escape(shown)}</td>"


def _trust(report: SlideReport) -> str:
    """How far from the training slides each place is."""
    if report.ood is None:
        return "<p>Unknown: the model does not bring what is needed to tell how much a slide is like its training slides.</p>"
    words = (
        f"How far each of the {report.places} is from the training slides, in what the encoder sees of them. 1 is the border: as "
        f"far as the farthest 1% of the spots of a training slide that was left out. {_share(report)} are within it and trusted."
    )
    return f"<p class='note'>{escape(words)}</p><div class='one'>{report.ood}</div>"
