"""The demo's report: one HTML page that shows its figures and needs nothing else."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hisdiff_sd._html import RESEARCH_USE, facts, page, picture, scrolled
from hisdiff_sd._targets import UNITS
from hisdiff_sd._whole_file import write_text

if TYPE_CHECKING:
    from hisdiff_sd.model import HisDiff

_SCORES = {
    "pcc10": "PCC-10", "pcc50": "PCC-50", "pcc_all": "PCC, all", "pcc_top_variance": "PCC, fixed 50", "mse": "MSE", "mae": "MAE",
    "rvd": "RVD", "log_var_ratio": "|log2 var ratio|", "gene_corr_error": "gene corr. error",
}  # fmt: skip
_METHODS = {
    "hisdiff": "HisDiff", "ridge": "tuned ridge", "dressed_ridge": "dressed ridge", "depth_map": "one depth map",
    "mean": "training mean",
}  # fmt: skip


def write_report(
    out: Path, held_out: str, model: HisDiff, table: pd.DataFrame, figures: list[Path], seconds: dict[str, float]
) -> Path:
    """Write ``report.html`` into `out` and return its path."""
    training = model.config.training
    about = {
        "held-out slide": f"{held_out} ({table.attrs['protocol']})",
        "trained on": f"{', '.join(training['slides'])}: {training['spots']} spots, "
        f"{training['epochs']} epochs, preset {training['preset']}",
        "panel": f"{len(model.genes)} genes, chosen on the training slides",
        "target": UNITS[model.config.target],
        "encoder": f"{model.config.encoder}, tiles {model.config.tile}",
        "time": ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items()),
    }
    licences = "; ".join(f"{what}: {licence}" for what, licence in model.config.licences.items())
    body = f"""<header><h1>Predicted expression of slide {escape(held_out)}</h1>
<p class="warning">{RESEARCH_USE}</p></header>
<main>
<section><h2>In short</h2>{facts(about)}</section>
<section><h2>Scores</h2>{scrolled(_scores_table(table), "table of scores")}
<p class="note">PCC-k: mean over the k genes that each method predicts best, so methods are scored on different genes;
"fixed 50" are the 50 genes of the highest training variance. RVD, variance ratio and gene correlation error (0 is best) say
whether predictions vary and go together as the tissue does: a mean of samples raises PCC and loses both. The ridge is a
regression on the same embeddings; the dressed ridge adds the residuals of random training spots to it.</p></section>
<section><h2>Figures</h2>{"".join(map(_shown, figures))}</section>
</main>
<footer><p class="note">{RESEARCH_USE} Licences: {escape(licences)}.</p></footer>"""
    path = out / "report.html"
    write_text(path, page(f"hisdiff_sd: {held_out}", body))
    return path


def _scores_table(table: pd.DataFrame) -> str:
    columns = [c for c in _SCORES if c in table]
    head = "".join(f"<th scope='col'>{escape(_SCORES[c])}</th>" for c in columns)
    body = ""
    for row in table.to_dict("records"):
        kind = "model" if row["method"] == "hisdiff" else ""
        cells = "".join(f"<td>{row[c]:.3f}</td>" for c in columns)
        body += f"<tr class='{kind}'><th scope='row'>{_METHODS[row['method']]}, {_samples(row)}</th>{cells}</tr>"
    return f"<table><thead><tr><th scope='col'>method</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _samples(row: dict[str, object]) -> str:
    if row["method"] not in ("hisdiff", "dressed_ridge"):
        return "point prediction"
    return "one sample" if row["samples"] == 1 else f"mean of {row['samples']}"


def _shown(figure: Path) -> str:
    """A figure below its name; a phone scrolls it."""
    if figure.stem == "training":
        name, alt = "training length", "error of the network on every left-out slide by epoch, and the chosen length"
    else:
        name = figure.stem.removeprefix("expression_")
        alt = f"maps of {name}: measured, predicted and uncertainty"
    shown = scrolled(picture(figure.read_bytes(), alt), f"figure of {name}", "chart")
    return f"<h3>{escape(name)}</h3>{shown}"
