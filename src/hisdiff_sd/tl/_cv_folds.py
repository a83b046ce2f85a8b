"""Folds predicted by rows: what is to be made, and making what is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tl._cv_slides import Cohort, FoldData, data_digest
from hisdiff_sd.tl._cv_store import Store
from hisdiff_sd.tl._row import FitContext, Row, check_samples_of, fit_shared, row_settings
from hisdiff_sd.tl._splits import Split

logger = logging.getLogger("hisdiff_sd")


@dataclass(frozen=True)
class Comparison:
    """What rows do in every fold.

    Attributes
    ----------
    rows
        What is compared.
    n_samples
        Samples of each row that has any.
    device
        Where networks are trained.
    seed
        Of everything random.
    """

    rows: Sequence[Row]
    n_samples: int
    device: str
    seed: int

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise HisDiffError(f"n_samples={self.n_samples} draws nothing; 32 is usual, and coverage needs 19 or more")

    def predict(
        self,
        cohort: Cohort,
        splits: Sequence[Split],
        panels: Sequence[list[str]],
        labels: Mapping[str, str],
        panel: str,
        store: Store,
    ) -> None:
        """Predict the folds that `store` lacks.

        Parameters
        ----------
        cohort
            Slides, embedded.
        splits, panels
            The folds, and the genes of each.
        labels
            How independent every test slide is.
        panel
            ``"given"`` or ``"per fold"``.
        store
            Where the predictions are, and go.
        """
        design = _design(cohort, splits, panels)
        design |= {"splits": dict(labels), "n_samples": self.n_samples, "seed": self.seed, "panel": panel}
        store.start(design, {row.name: row_settings(row) for row in self.rows})
        for split, genes in zip(splits, panels, strict=True):
            missing = [row for row in self.rows if not store.has(split.name, row.name)]
            if missing:
                data = cohort.fold(split, genes)
                store.write_truth(split.name, data.test, data.truth)
                context = FitContext(data.train, resolve_device(self.device), self.seed, store.work(split.name))
                for row in missing:
                    logger.info("fold %r, row %r", split.name, row.name)
                    samples, record = _predicted(row, data, context, self.n_samples)
                    store.write(split.name, row.name, samples, {"fold": split.name, **record})


def _design(cohort: Cohort, splits: Sequence[Split], panels: Sequence[list[str]]) -> dict[str, Any]:
    """What the predictions are made for; a folder holds those of one design."""
    gathered = cohort.gathered
    used = {name for split in splits for name in (*split.test, *split.train)}
    return {
        "target": gathered.kind.target,
        "encoder": gathered.encoder,
        "encoder_hash": gathered.encoder_hash,
        "tile": gathered.tile,
        "slides": [
            {"name": s.name, "patient": cohort.patients[s.name], "spots": s.n, "digest": data_digest(s, m.totals)}
            for s, m in zip(gathered.inputs, gathered.truth, strict=True)
            if s.name in used
        ],
        "folds": [
            {"name": s.name, "test": list(s.test), "train": list(s.train), "genes": panel}
            for s, panel in zip(splits, panels, strict=True)
        ],
    }


def _predicted(
    row: Row, data: FoldData, context: FitContext, n_samples: int
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Samples of a row for every test slide of a fold, and how they were made."""
    train = data.train
    fitted, seconds = context.timed(partial(fit_shared, row, train.inputs, train.truth, context))
    samples, total, drawn = [], 0.0, 0
    for slide, truth in zip(data.test, data.truth, strict=True):
        raw, spent = context.timed(partial(fitted.samples, slide, n_samples, context.seed))
        samples.append(check_samples_of(row.name, raw, slide, truth.y.shape[1], n_samples))
        total, drawn = total + spent, drawn + len(samples[-1]) * slide.n
    record = {
        "row": row.name,
        "settings": row_settings(row),
        "test": [s.name for s in data.test],
        "train": [s.name for s in train.inputs],
        "genes": train.genes,
        "samples": n_samples,
        "seed": context.seed,
        "train_seconds": seconds,
        "ms_per_sample": total * 1000 / drawn,
    }
    return samples, record
