"""What a test slide must not share with the slides that are learned from."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._fingerprints import spot_hashes

if TYPE_CHECKING:
    from anndata import AnnData

    from hisdiff_sd.tl._splits import Split

WITHIN, UNKNOWN, INDEPENDENT = (
    "held-out slide, within patient",
    "held-out slide, patient unknown",
    "held-out slide and patient",
)
_SHARED = 0.5  # of the spots of the smaller slide; neighbouring sections share none


def check_same_counts(tables: Mapping[str, AnnData]) -> None:
    """Refuse two ids of one measurement: tables that have many spots in common, in whatever order of spots and genes."""
    _refuse_shared({name: spot_hashes(table) for name, table in tables.items()}, "counts")


def check_same_embeddings(embeddings: Mapping[str, np.ndarray]) -> None:
    """Refuse two ids of one image: embeddings (n, E) that many spots have in common."""
    _refuse_shared({name: {row.tobytes() for row in e} for name, e in embeddings.items()}, "tile embeddings")


def labels_of(splits: Sequence[Split], patients: Mapping[str, str]) -> dict[str, str]:
    """How independent every test slide is of its training slides."""
    labels: dict[str, str] = {}
    for split in splits:
        trained = {patients[n] for n in split.train}
        for name in split.test:
            known = patients[name] and "" not in trained
            labels[name] = WITHIN if patients[name] in trained - {""} else INDEPENDENT if known else UNKNOWN
    return labels


def label_splits(splits: Sequence[Split], patients: Mapping[str, str]) -> dict[str, str]:
    """How independent every test slide is of its training slides; what is less than a new patient is warned of."""
    labels = labels_of(splits, patients)
    for label, meaning in (
        (WITHIN, "their patient is among the training slides: these scores say nothing of new patients; by='patient'"),
        (UNKNOWN, "their patient, or that of a training slide, is unknown: say 'patient unknown' of these scores"),
    ):
        slides = [n for n, found in labels.items() if found == label]
        if slides:
            warnings.warn(f"{', '.join(slides)}: {meaning}", HisDiffWarning, stacklevel=3)
    return labels


def given_panel(genes: Any, splits: Sequence[Split]) -> list[str]:
    """The genes of a panel that is given, unless it is known to come from test slides.

    Parameters
    ----------
    genes
        Names; or a model, whose training slides are known; or anything of names with ``attrs["slides"]``, as a pandas
        Series, those it was chosen on.
    splits
        The folds.
    """
    if isinstance(genes, str):
        raise HisDiffError(f"genes={genes!r} is one name; give a list: [{genes!r}]")
    model = getattr(genes, "config", None)
    slides = model.training.get("slides") if model is not None else getattr(genes, "attrs", {}).get("slides")
    panel = [str(g) for g in (model.genes if model is not None else genes)]
    twice = sorted({g for g in panel if panel.count(g) > 1})
    if twice or not panel:
        raise HisDiffError(f"genes are listed more than once: {', '.join(twice[:10])}" if twice else "genes= is empty")
    if slides is None:
        warnings.warn(
            "genes= is given, and where it was chosen cannot be known: a panel that was chosen on the slides it is judged "
            "on leaks; leave genes= out to have it chosen in each fold",
            HisDiffWarning,
            stacklevel=3,
        )
        return panel
    seen = [n for split in splits for n in split.test if n in slides]
    if seen:
        raise HisDiffError(
            f"the panel was chosen on slides that are judged here: {', '.join(seen)}; leave genes= out to have one chosen "
            "in each fold, or give the names alone, list(genes), and answer for it"
        )
    return panel


def _refuse_shared(spots: Mapping[str, set[Any]], what: str) -> None:
    for (a, of_a), (b, of_b) in itertools.combinations(spots.items(), 2):
        smaller = min(len(of_a), len(of_b))
        shared = len(of_a & of_b)
        if smaller and shared >= _SHARED * smaller:
            raise HisDiffError(
                f"slides {a!r} and {b!r} have the same {what} at {shared} of {smaller} spots: one slide under two ids (HEST "
                "has some: TENX155 is TENX128); leave one of them out"
            )
