"""The model card: what the bundle itself says of a model, in words, and nothing that it does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._html import RESEARCH_USE
from hisdiff_sd._targets import UNITS
from hisdiff_sd._trust import FALSE_DISCOVERY, LOWEST_PCC
from hisdiff_sd._version import __version__

if TYPE_CHECKING:
    from hisdiff_sd.model import HisDiff

_PROCESSES = {
    "ddpm": "a denoising diffusion model, the published process",
    "flow": "a regression on the embeddings, and a rectified flow over what it leaves open",
}
_N_BEST = 10


def model_card(model: HisDiff) -> str:
    """The text of a model's ``README.md``, with the header that the Hugging Face hub reads."""
    from huggingface_hub import ModelCardData

    c = model.config
    header = ModelCardData(
        license="other",
        license_name="of-encoder-and-training-data",
        library_name="hisdiff_sd",
        tags=["spatial-transcriptomics", "histology", "hisdiff", model.process, *([c.species] if c.species else [])],
    )
    sections = {
        "What it predicts": _facts(model),
        "Intended use": _use(model),
        "Training data": _data(model),
        "Training": _training(model),
        "How well it predicts": _metrics(model),
        "Limits": _LIMITS,
        "Licences": _licences(model),
        "How to use it": _HOW,
    }
    title = f"# HisDiff: {len(c.genes)} genes from tiles of H&E slides"
    parts = [f"## {name}\n\n{text}" for name, text in sections.items()]
    about = f"Written by hisdiff_sd {__version__} from the files of the model; hash `{model.fingerprint}`."
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join([title, f"**{RESEARCH_USE}**", *parts, about]) + "\n"


_LIMITS = (
    "Predicted expression is a statistical guess from an image, not a measurement. On the target log2(count + 1) much of a "
    "score is sequencing depth. Another stain, scanner, organ or technology than that of the training slides is another "
    "question than the one that was learned; `obs['trusted']` of a prediction says where tiles are unlike the training "
    "tiles, if the model holds their statistics."
)
_HOW = """```python
import hisdiff_sd as hd

model = hd.HisDiff.load("<folder or id of this repository>")
hd.tl.predict(sdata, model)  # sdata: a slide of hd.io; adds sdata["hisdiff"]
```"""


def _facts(model: HisDiff) -> str:
    c = model.config
    rows = {
        "genes": f"{len(c.genes)}: {', '.join(c.genes[:12])}{' ...' * (len(c.genes) > 12)} (`model.genes`)",
        "gene names": c.gene_id_type,
        "species": c.species,
        "target": UNITS[c.target],
        "process": _PROCESSES[model.process],
        "encoder": c.encoder + (f", hash `{c.encoder_hash[:12]}`" if c.encoder_hash else ""),
        "tiles": c.tile + (f", {c.tile_side_um:.0f} um wide in training" if c.tile_side_um else ""),
        "context": f"the {c.near} and the {c.wide} nearest spots, the spot included",
        "spots": _spots(model),
        "pixel size of the training slides": f"{c.mpp:.3g} um" if c.mpp else "",
        "parameters of the network": f"{sum(p.numel() for p in model.network.parameters()):,}",
    }
    return _table(rows)


def _spots(model: HisDiff) -> str:
    c = model.config
    found = [
        f"{c.spot_diameter_um:g} um wide" if c.spot_diameter_um else "",
        f"{c.spot_pitch_um:g} um apart" if c.spot_pitch_um else "",
        f"on a {c.spot_grid} grid" if c.spot_grid else "",
    ]
    return ", ".join(filter(None, found))


def _use(model: HisDiff) -> str:
    species = f" of {model.config.species}" if model.config.species else ""
    return (
        f"Research on tissue{species}: maps of the genes above from H&E slides that are like the training slides, with an "
        "uncertainty for every spot and gene. Not for the care of patients, and not in place of a measurement."
    )


def _data(model: HisDiff) -> str:
    training = model.config.training
    return _table(
        {
            "slides": ", ".join(training.get("slides", [])),
            "patients": ", ".join(training.get("patients", [])),
            "spots": f"{training['spots']:,}" if "spots" in training else "",
            "checkpoint": str(training.get("checkpoint", "")),
        }
    )


def _training(model: HisDiff) -> str:
    training = model.config.training
    # the epochs among the settings are the most that there may be, and would be taken for those that there were
    settings = ", ".join(f"{k} {v}" for k, v in training.get("settings", {}).items() if k != "epochs")
    shown: dict[str, str] = {k: str(training[k]) for k in ("preset", "epochs", "seed") if k in training}
    return _table(shown | {"settings": settings})


def _metrics(model: HisDiff) -> str:
    trust = model.trust
    genes = None if trust is None else trust.genes
    if genes is None:
        return "Not known: the model does not hold predictions of slides that were left out of its training."
    best = np.argsort(-genes.pcc, kind="stable")[:_N_BEST]
    low, middle, high = np.quantile(genes.pcc, [0.25, 0.5, 0.75])
    rows = "\n".join(f"| {model.genes[i]} | {genes.pcc[i]:.2f} | {genes.q[i]:.2g} |" for i in best)
    return (
        f"Each of the slides {', '.join(genes.slides)} was left out in turn and predicted by a model of the others: the mean "
        f"of {genes.samples} samples of {genes.steps} steps. {_independence(model)}\n\n"
        f"- reliable genes: {int(genes.reliable.sum())} of {len(genes.pcc)} (q <= {FALSE_DISCOVERY:g} against shifted "
        f"predictions, and a correlation of {LOWEST_PCC:g} or more)\n"
        f"- correlation of predicted and measured maps, median over genes: {middle:.2f} (quartiles {low:.2f}, {high:.2f})\n\n"
        f"The best of them (`model.reliability()` has all):\n\n"
        f"| gene | correlation | q |\n|---|---|---|\n{rows}"
    )


def _independence(model: HisDiff) -> str:
    """How independent the left-out slides were of the others."""
    slides, patients = (len(model.config.training.get(k, [])) for k in ("slides", "patients"))
    if patients == slides:
        return "Every slide is of a patient of its own."
    if patients == 1:
        return "All slides whose patient is known are of one: this says little about a new patient."
    return "Some slides share a patient, or theirs is unknown: this may say little about a new patient."


def _licences(model: HisDiff) -> str:
    named = model.config.licences
    if not named:
        return "The model does not hold the licences of its encoder and its training data; ask whoever made it."
    return _table(named) + "\n\nWhat these allow bounds what may be done with this model."


def _table(rows: dict[str, str]) -> str:
    """Rows of a table; what is not known is left out."""
    known = {k: v for k, v in rows.items() if v}
    if not known:
        return "Not known."
    return "| | |\n|---|---|\n" + "\n".join(f"| {k} | {str(v).replace('|', '/')} |" for k, v in known.items())
