from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._targets import TARGETS, Target
from hisdiff_sd.tl._cross_validation import CrossValidation
from hisdiff_sd.tl._cv_folds import Comparison
from hisdiff_sd.tl._cv_scores import METRICS, Judged, score
from hisdiff_sd.tl._cv_slides import Cohort, Reading
from hisdiff_sd.tl._cv_store import Store, file_name
from hisdiff_sd.tl._leakage import given_panel, label_splits, labels_of
from hisdiff_sd.tl._row import Row, stream
from hisdiff_sd.tl._rows import resolve_rows
from hisdiff_sd.tl._splits import Manifest, Split, make_splits

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder

_ROWS = ("ridge", "dressed_ridge", "hisdiff")
_METRICS = ("pcc50", "mse", "crps", "energy")


def learning_curve(
    slides: Sequence[SpatialData | str | Path],
    sizes: Sequence[int] | None = None,
    *,
    rows: Sequence[str | Row | Callable[..., Any]] = _ROWS,
    metrics: Sequence[str] = _METRICS,
    n_subsets: int = 3,
    by: str | Path | Manifest = "slide",
    target: Target = "log2",
    genes: Any = None,
    encoder: str | TileEncoder = "uni",
    n_samples: int = 32,
    tile_um: float | None = None,
    padding: str = "black",
    weights: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    table_key: str = keys.TABLE,
) -> pd.DataFrame:
    """Scores by the number of training slides, which tell how much one more slide would help.

    Slides are left out as in `hd.tl.cross_validate`, and every row learns from 1, 2, ... of the other slides. Of each number
    there are several training sets: the other slides are brought into a random order, and a set are so many in a row of it,
    from one slide or another on, round the end. Sets of consecutive numbers therefore differ by one slide.

    Everything that a row learns or tunes comes from its training set alone, but **the genes that are scored do not**: they
    are chosen once for each held-out slide, on all slides that are not held out, and are the same for every number.
    With a panel of its own each number would be judged on other genes, and the curve would show the genes. Nothing of the
    held-out slide is seen; but that the panel is good is something that the small training sets would not have known.

    Parameters
    ----------
    slides
        Measured slides, objects or paths of stores, two or more.
    sizes
        Numbers of training slides; by default 1 to as many as every fold has.
    rows
        As in `hd.tl.cross_validate`; by default the ridge on the spot, the dressed ridge and the default model. With one
        training slide nothing is left out to tune by: ridges are tuned on stripes of it, and a flow takes the length of its
        preset and is calibrated on predictions of stripes.
    metrics
        Of `CrossValidation.scores`.
    n_subsets
        Training sets of each number, at most; there are no more than slides to learn from.
    by
        What is held out, as in `hd.tl.cross_validate`. With ``"patient"`` no slide of the held-out patient is learned from;
        numbers are still those of slides, and training sets may have several of one patient.
    target, genes, encoder, n_samples, tile_um, padding, weights, device, table_key
        As in `hd.tl.cross_validate`.
    out
        Folder for the predictions, a cross-validation for each training set. A call that was interrupted goes on when it is
        made again, and one with more numbers or rows adds them. Without it nothing is kept.
    seed
        Of everything random, the training sets included.

    Returns
    -------
    One row per number, held-out slide, row and metric: ``n_slides``; ``slide``, ``patient`` and ``split`` (how independent it
    is of the slides that are learned from); ``row``; ``target``; ``metric``; ``value``, float64, mean over the training
    sets; ``low`` and ``high``, the lowest and highest of them, NaN if there is but one; ``subsets``, how many there are. Draw it
    with `hd.pl.learning_curve`.

    Raises
    ------
    HisDiffError
        If there are no slides, a number of slides is 0 or more than a fold has, metrics are unknown, or as in
        `hd.tl.cross_validate`.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2", "S3"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2", "S3")]
    >>> table = hd.tl.learning_curve(slides, encoder="morphology", rows=["ridge"], metrics=["mse"])
    >>> table["n_slides"].tolist()
    [1, 1, 1, 2, 2, 2]
    """
    check_one_of(target, TARGETS, "target")
    asked = _asked_metrics(metrics)
    comparison = Comparison(resolve_rows(rows), n_samples, device, seed)
    if n_subsets < 1:
        raise HisDiffError(f"n_subsets={n_subsets} trains on nothing; give 1 or more")
    if weights is not None:
        from hisdiff_sd import encoders

        encoder, weights = encoders.load(encoder, weights=weights, device=device), None
    cohort = Cohort(slides, Reading(encoder, target, tile_um, padding, weights, device, table_key))
    if len(cohort.slides) < 2:
        raise HisDiffError(f"slides= are {len(cohort.slides)}; two or more are needed, to hold out and to learn from")
    splits = make_splits(list(cohort.slides), cohort.patients, by)
    numbers = _asked_sizes(sizes, splits)
    given = None if genes is None else given_panel(genes, splits)
    labels = label_splits(splits, cohort.patients)  # warns once, not for every training set
    cohort.embed(given)
    scored: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hisdiff_sd-curve-") as temporary:
        folder = Path(temporary if out is None else out).absolute()
        for split in splits:
            panel = cohort.panel(split) if given is None else given
            for part in training_sets(split, numbers, n_subsets, seed):
                store = Store(folder / file_name(split.name) / _set_name(part))
                of_set = labels_of([part], cohort.patients)
                comparison.predict(cohort, [part], [panel], of_set, "per fold" if given is None else "given", store)
                scored += _scores(CrossValidation(store.folder), [r.name for r in comparison.rows], asked)
    return _tidy(scored, cohort.patients, labels, target)


def training_sets(split: Split, sizes: Sequence[int], n_subsets: int, seed: int) -> Iterator[Split]:
    """The fold with fewer training slides: for each number so many in a row of one random order, from several starts."""
    n = len(split.train)
    order = stream(seed, "training sets", split.name).permutation(n)
    starts = np.arange(min(n_subsets, n)) * n // min(n_subsets, n)
    for size in sizes:
        # sets that are equal although they start elsewhere (all slides) are one
        for rows in dict.fromkeys(tuple(sorted(np.roll(order, -start)[:size])) for start in starts):
            yield Split(split.name, split.test, tuple(split.train[i] for i in rows))


def _asked_metrics(metrics: Sequence[str]) -> list[str]:
    asked = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    if not asked:
        raise HisDiffError(f"metrics= is empty; there are: {', '.join(METRICS)}")
    return [check_one_of(metric, METRICS, "metric") for metric in asked]


def _asked_sizes(sizes: Sequence[int] | None, splits: Sequence[Split]) -> list[int]:
    """Numbers of training slides, lowest first; every fold has as many."""
    fewest = min(splits, key=lambda s: len(s.train))
    most = len(fewest.train)
    if sizes is None:
        return list(range(1, most + 1))
    if isinstance(sizes, int | np.integer) or not len(sizes):
        raise HisDiffError(f"sizes={sizes!r} is no list of numbers of training slides; give some of 1 to {most}")
    for size in sizes:
        if not isinstance(size, int | np.integer) or not 1 <= size <= most:
            raise HisDiffError(
                f"sizes has {size!r}, and training sets have 1 to {most} slides: fold {fewest.name!r} holds "
                f"{', '.join(fewest.test)} out and has {most} to learn from"
            )
    return sorted({int(size) for size in sizes})


def _set_name(part: Split) -> str:
    """A folder's name for a training set; the manifest in it says which slides it has."""
    return f"{len(part.train)}-{hashlib.sha256('|'.join(part.train).encode()).hexdigest()[:12]}"


def _scores(cv: CrossValidation, rows: Sequence[str], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The asked scores of one training set, one after the other."""
    (fold,) = cv.design["folds"]
    for row in rows:
        for p in cv.predictions(row):
            judged = Judged(p.samples, p.true, p.xy)
            named = {"n_slides": len(fold["train"]), "slide": p.slide, "row": row}
            yield from ({**named, "metric": m, "value": score(judged, m)} for m in metrics)


def _tidy(scored: list[dict[str, Any]], patients: dict[str, str], labels: dict[str, str], target: str) -> pd.DataFrame:
    """Scores of single training sets as the table that is returned."""
    names = ["n_slides", "slide", "row", "metric"]
    groups = pd.DataFrame(scored).groupby(names, sort=False)["value"]
    table = groups.agg(["mean", "min", "max", "size"]).reset_index()
    table.columns = [*names, "value", "low", "high", "subsets"]
    table.loc[table["subsets"] == 1, ["low", "high"]] = np.nan
    table["patient"], table["split"] = table["slide"].map(patients), table["slide"].map(labels)
    table["target"] = target
    columns = ["n_slides", "slide", "patient", "split", "row", "target", "metric", "value", "low", "high", "subsets"]
    return table.sort_values("n_slides", kind="stable", ignore_index=True)[columns]
