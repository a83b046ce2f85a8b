"""The demo's report: one HTML page that shows its figures and needs nothing else."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from hisdiff_sd.model import HisDiff

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.model { font-weight: 600; background: #f3f0fa }
img { max-width: 100% } .note { color: #555; font-size: .9rem }
"""
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
    facts = {
        "held-out slide": f"{held_out} ({table.attrs['protocol']})",
        "trained on": f"{', '.join(training['slides'])}: {training['spots']} spots, "
        f"{training['epochs']} epochs, preset {training['preset']}",
        "panel": f"{len(model.genes)} genes, chosen on the training slides",
        "target": {"log2": "log2(count + 1)", "cp10k": "log(1 + counts per 10,000)"}[model.config.target],
        "encoder": f"{model.config.encoder}, tiles {model.config.tile}",
        "time": ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items()),
    }
    listed = "".join(
        f"<tr><td>{html.escape(k)}</td><td style='text-align:left;white-space:normal'>{html.escape(v)}</td></tr>"
        for k, v in facts.items()
    )
    pictures = "".join(
        f"<h3>{html.escape(_title(f))}</h3><img alt='{html.escape(_title(f))}' src='{_inline(f)}'>" for f in figures
    )
    licences = "; ".join(f"{what}: {licence}" for what, licence in model.config.licences.items())
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>hisdiff_sd: {html.escape(held_out)}</title><style>{_STYLE}</style></head><body>
<h1>Predicted expression of slide {html.escape(held_out)}</h1>
<table>{listed}</table>
<h2>Scores</h2><div class="scroll">{_scores_table(table)}</div>
<p class="note">PCC-k: mean over the k genes that each method predicts best, so methods are scored on different genes;
"fixed 50" are the 50 genes of the highest training variance. RVD, variance ratio and gene correlation error (0 is best) say
whether predictions vary and go together as the tissue does: a mean of samples raises PCC and loses both. The ridge is a
regression on the same embeddings; the dressed ridge adds the residuals of random training spots to it.</p>
<h2>Figures</h2>{pictures}
<p class="note">For research use only; not for diagnosis. Licences: {html.escape(licences)}.</p>
</body></html>
"""
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _scores_table(table: pd.DataFrame) -> str:
    columns = [c for c in _SCORES if c in table]
    head = "".join(f"<th>{html.escape(_SCORES[c])}</th>" for c in columns)
    body = ""
    for row in table.to_dict("records"):
        kind = "model" if row["method"] == "hisdiff" else ""
        cells = "".join(f"<td>{row[c]:.3f}</td>" for c in columns)
        body += f"<tr class='{kind}'><td>{_METHODS[row['method']]}, {_samples(row)}</td>{cells}</tr>"
    return f"<table><tr><th>method</th>{head}</tr>{body}</table>"


def _samples(row: dict[str, object]) -> str:
    if row["method"] not in ("hisdiff", "dressed_ridge"):
        return "point prediction"
    return "one sample" if row["samples"] == 1 else f"mean of {row['samples']}"


def _title(figure: Path) -> str:
    return figure.stem.replace("expression_", "").replace("training", "training length")


def _inline(figure: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.read_bytes()).decode()
