"""The result of a cross-validation: stored predictions, scored as often and in as many ways as one likes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.tl._bootstrap import Blocks, Units, independent_units, interval, pooled
from hisdiff_sd.tl._cv_scores import METRICS, OF_SLIDE, OF_SPOTS, PER_SPOT, Judged, resampled, score
from hisdiff_sd.tl._cv_store import Store

logger = logging.getLogger("hisdiff_sd")

# what resampling does not make slow
_QUICK = ("pcc50", "pcc_all", "mse", "mae", "crps", "energy", "variogram", "coverage90")
_TIMES = ("train_seconds", "ms_per_sample")


@dataclass(frozen=True)
class StoredPrediction:
    """Predictions of one row for one test slide, beside what was measured.

    Attributes
    ----------
    fold, slide, row
        Which.
    genes
        The panel of the fold, (G,).
    samples
        (S, n, G) on the target scale; S is 1 for a point prediction.
    true
        (n, G) float64 measured, on the target scale.
    totals
        (n,) counts of all non-control genes.
    xy
        (n, 2) spot centres in level-0 px.
    index
        (n,) barcodes.
    """

    fold: str
    slide: str
    row: str
    genes: list[str]
    samples: np.ndarray
    true: np.ndarray
    totals: np.ndarray
    xy: np.ndarray
    index: pd.Index


class CrossValidation:
    """Predictions of left-out slides by all rows, as `hd.tl.cross_validate` stored them.

    Parameters
    ----------
    folder
        Where they are stored.

    Attributes
    ----------
    design
        Slides, folds, panels, target, encoder and seed that they were made with.
    rows
        Names of the rows that have predictions of every fold.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> folder = tempfile.mkdtemp() + "/cv"
    >>> cv = hd.tl.cross_validate(slides, by="slide", encoder="morphology", rows=["mean", "ridge"], out=folder)
    >>> hd.tl.CrossValidation.load(folder).rows
    ['mean', 'ridge']
    >>> cv.rescore(lambda samples, true: abs(samples.mean(0) - true).max()).columns.tolist()
    ['fold', 'slide', 'row', '<lambda>']
    """

    def __init__(self, folder: Path, _keep: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self._store = Store(folder)
        self._keep = _keep  # a temporary folder lives as long as this object
        self._known_scores: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
        manifest = self._store.manifest()
        self.design: dict[str, Any] = manifest["design"]
        folds = [f["name"] for f in self.design["folds"]]
        self.rows: list[str] = [r for r in manifest["rows"] if all(self._store.has(f, r) for f in folds)]
        lacking = [r for r in manifest["rows"] if r not in self.rows]
        if lacking:
            logger.warning(
                "%s: %s lack predictions of some folds; call hd.tl.cross_validate again to go on",
                folder,
                ", ".join(lacking),
            )

    @classmethod
    def load(cls, path: str | Path) -> CrossValidation:
        """Read what `hd.tl.cross_validate` left in its folder `out`.

        Raises
        ------
        HisDiffError
            If there is no cross-validation at `path`.
        """
        return cls(Path(path))

    @property
    def path(self) -> Path:
        """The folder with the predictions; a temporary one if `out` was not given."""
        return self._store.folder

    @property
    def panel(self) -> str:
        """``"given"``, or ``"per fold"``, where genes differ from fold to fold and pooled figures are means over slides."""
        return str(self.design["panel"])

    def predictions(self, row: str | None = None) -> Iterator[StoredPrediction]:
        """All predictions, or those of one row, slide by slide, read when they are asked for."""
        rows = self.rows if row is None else [self._known(row)]
        for fold in self.design["folds"]:
            for i, slide in enumerate(fold["test"]):
                measured, xy, index = self._store.truth(fold["name"], i)
                for name in rows:
                    samples = self._store.samples(fold["name"], name, i)
                    yield StoredPrediction(
                        fold["name"], slide, name, fold["genes"], samples, measured.y, measured.totals, xy, index
                    )

    def scores(self) -> pd.DataFrame:
        """Score every row on every test slide.

        Returns
        -------
        One row per slide and row: ``fold``, ``slide``, ``patient``, ``split`` (how independent the slide is of its training
        slides), ``row``, ``samples``, ``genes``, and

        ``pcc10``, ``pcc50``, ``pcc_all``, ``mse``, ``mae``
            Of the mean of the samples.
        ``rvd_single``, ``log_var_ratio_single``, ``gene_corr_single``, ``moran_single``, ``moran_error_single``
            Of single samples, means over at most 16: `hd.metrics.rvd`, ``log_var_ratio``, ``gene_corr_error``,
            ``moran_corr``, ``moran_error`` (4 or 6 neighbours by the grid of the spots, on the target scale).
        ``crps``, ``energy``, ``variogram``
            Fair: `hd.metrics.crps`, ``energy_score``, ``variogram_score``, mean over every second sample and the others
            (a flow draws pairs of opposite noise); of a point prediction the point score.
        ``coverage90``, ``coverage90_regions``
            Of 90% intervals, per spot and of means over compact regions of 25 spots; NaN below 19 samples.
        ``train_seconds``, ``ms_per_sample``
            Of the fold's training (each row as if it were alone), and per spot and sample.
        """
        return self._scores.copy()

    def rescore(self, function: Callable[[np.ndarray, np.ndarray], Any]) -> pd.DataFrame:
        """Score stored predictions with a function of yours; nothing is fitted or predicted again.

        Parameters
        ----------
        function
            Called with the samples (S, n, G) and the measurement (n, G); returns a number, or a dict of numbers. What needs
            places or names of genes takes them from `predictions`.

        Returns
        -------
        One row per slide and row: ``fold``, ``slide``, ``row``, and a column with the name of the function, or one for each
        key.
        """
        name = getattr(function, "__name__", "score")
        out = []
        for p in self.predictions():
            value = function(p.samples, p.true)
            named = value if isinstance(value, Mapping) else {name: value}
            out.append({"fold": p.fold, "slide": p.slide, "row": p.row, **{k: float(v) for k, v in named.items()}})
        return pd.DataFrame(out)

    def summary(self, metrics: Sequence[str] = METRICS, *, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Means over slides, with 95% intervals.

        Whether one row is better than another is not to be read off two intervals: they share slides and spots. Ask
        `compare`.

        Parameters
        ----------
        metrics
            Columns of `scores`.
        n_boot, seed
            Resamples, and their seed.

        Returns
        -------
        One row per row and metric: ``row``, ``metric``, ``value``, ``low``, ``high``, ``interval``, which says what was
        resampled: ``"spots"`` (blocks of neighbouring spots), ``"spots and slides"`` or ``"spots and patients"`` (with five
        or more of them), ``"slides"`` or ``"patients"`` alone for scores that are slow to resample, empty for those of a
        whole slide if slides are few. ``attrs["unit"]`` says it in words.
        """
        for metric in metrics:
            check_one_of(metric, METRICS, "metric")
        units, scores = self._units, self._scores
        kind = ("patients" if " patients" in units.text.split(",")[0] else "slides") if units.resampled else ""
        out = []
        for row in self.rows:
            own = scores[scores["row"] == row]
            quick = [m for m in metrics if m in _QUICK]
            resampled = self._resampled(row, quick, n_boot, seed)
            for metric in metrics:
                of_slides = own[metric].to_numpy(np.float64)
                what = " and ".join(filter(None, ("spots", kind))) if metric in resampled else kind
                draws = resampled.get(metric, np.repeat(of_slides[:, None], n_boot, 1))
                low, high = interval(pooled(draws, units, seed)) if what else (np.nan, np.nan)
                named = {"row": row, "metric": metric, "value": of_slides.mean(), "low": low, "high": high}
                out.append({**named, "interval": what})
            out += [{"row": row, "metric": t, "value": own[t].mean(), "interval": ""} for t in _TIMES]
        table = pd.DataFrame(out)
        table.attrs |= {"unit": units.text, "panel": self.panel}
        return table

    def compare(
        self, row: str, reference: str, metrics: Sequence[str] = _QUICK, *, n_boot: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """Difference of two rows with its interval: paired, by blocks of neighbouring spots, the same for both.

        Blocks of 25 spots are drawn with replacement within each slide, and with five or more patients or slides these too;
        see ``attrs["unit"]``. Scores of spots are averaged over the drawn spots, correlations and variances computed
        anew.

        Parameters
        ----------
        row, reference
            Names of rows.
        metrics
            Of `scores`, but those of a whole slide (Moran's I, coverage of regions). Variances and gene correlations of
            single samples are not among the default ones, because they are slow.
        n_boot, seed
            Resamples, and their seed.

        Returns
        -------
        One row per metric: ``metric``, ``difference`` (`row` less `reference`, mean over slides), ``low`` and ``high`` of
        the 95% percentile interval. A row compared with itself has 0, 0, 0.

        Raises
        ------
        HisDiffError
            If there is no such row or metric.
        """
        for metric in metrics:
            if metric in OF_SLIDE:
                raise HisDiffError(f"{metric!r} is a score of a whole slide, and cannot be computed of resampled spots")
            check_one_of(metric, (*PER_SPOT, *OF_SPOTS), "metric")
        of_slides = {r: self._scores[self._scores["row"] == self._known(r)] for r in (row, reference)}
        a, b = (self._resampled(r, metrics, n_boot, seed) for r in (row, reference))
        out = []
        for metric in metrics:
            value = float(np.mean(of_slides[row][metric].to_numpy() - of_slides[reference][metric].to_numpy()))
            low, high = interval(pooled(a[metric] - b[metric], self._units, seed))
            out.append({"metric": metric, "difference": value, "low": low, "high": high})
        table = pd.DataFrame(out)
        table.attrs |= {"unit": self._units.text, "panel": self.panel, "row": row, "reference": reference}
        return table

    def __repr__(self) -> str:
        d = self.design
        return (
            f"CrossValidation({len(d['slides'])} slides, {len(d['folds'])} folds, rows {', '.join(self.rows)}; target "
            f"{d['target']!r}, encoder {d['encoder']!r}, panel {self.panel}; {self.path})"
        )

    def _known(self, row: str) -> str:
        return check_one_of(row, self.rows, "row")

    def _resampled(self, row: str, metrics: Sequence[str], n_boot: int, seed: int) -> dict[str, np.ndarray]:
        """Metric -> (n_slides, n_boot); the resamples of a slide are those of all rows."""
        of_slides = [
            resampled(self._judged(p), metrics, Blocks(p.xy, n_boot, seed, p.slide)) for p in self.predictions(row)
        ]
        return {m: np.stack([found[m] for found in of_slides]) for m in metrics}

    def _judged(self, p: StoredPrediction) -> Judged:
        """A prediction, with what was computed of it before: scores of spots are small and take long."""
        return Judged(p.samples, p.true, p.xy, self._known_scores.setdefault((p.fold, p.slide, p.row), {}))

    @cached_property
    def _scores(self) -> pd.DataFrame:
        patients = {s["name"]: s["patient"] for s in self.design["slides"]}
        out = []
        for p in self.predictions():
            judged, record = self._judged(p), self._store.record(p.fold, p.row)
            out.append(
                {
                    "fold": p.fold,
                    "slide": p.slide,
                    "patient": patients[p.slide],
                    "split": self.design["splits"][p.slide],
                    "row": p.row,
                    "samples": len(p.samples),
                    "genes": len(p.genes),
                    **{m: score(judged, m) for m in METRICS},
                    **{t: record[t] for t in _TIMES},
                }
            )
        table = pd.DataFrame(out)
        table.attrs |= {"target": self.design["target"], "panel": self.panel}
        return table

    @cached_property
    def _units(self) -> Units:
        patients = {s["name"]: s["patient"] for s in self.design["slides"]}
        return independent_units([patients[t] for fold in self.design["folds"] for t in fold["test"]])
