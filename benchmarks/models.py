"""The default model beside every other row, on both targets.

    python benchmarks/models.py --hest DIR --test C4 --train C2 C3 --json FILE
    python benchmarks/models.py --hest DIR --train C2 C3 C4 --loso --json FILE

All rows are trained on the slides of --train and judged on the slide of --test; without --test each of --train is left out in
turn. With both --test and --loso the coverage of left-out training slides is reported beside the rest. Printed and written are

    rows          means over the seeds; intervals by seeds and blocks of neighbouring spots
    comparisons   paired differences of the default from the tuned ridge and the dressed ridge
    normalised    (error - floor) / (ridge - floor) of one sample, the floor being that of measured neighbouring sections
    ceiling       median PCC that a perfect prediction of the rates would have
    shift         errors on the test slide as a new scanner would show it, and with a tenth of the counts (seed 0)

Rows that do not depend on a seed, or are slow, run once. Whatever lies in --work is taken up again. `published` has 12 blocks of
width 384: on a processor an epoch takes minutes, and a sample as well. It gets --published-minutes per target, half of them
for training; its name says how far it was trained, and it is left out if not even one epoch is possible in that time.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import spatialdata
from _common import real_store, write_json
from _published import published_plan
from _shift import EXPLAINED, ROWS, below_mean, shallow, shift_errors, shifted_inputs

import hisdiff_sd as hd
from hisdiff_sd import _keys as keys
from hisdiff_sd._data import rows_of
from hisdiff_sd._device import resolve_device
from hisdiff_sd.tl import CrossValidation, HisDiffRow, cross_validate
from hisdiff_sd.tl._bootstrap import independent_units, interval, pooled
from hisdiff_sd.tl._cv_slides import Cohort, FoldData, Reading
from hisdiff_sd.tl._cv_store import Store
from hisdiff_sd.tl._row import FitContext, Shuffled, fit_shared
from hisdiff_sd.tl._rows import resolve_rows
from hisdiff_sd.tl._rows_hisdiff import default_preset
from hisdiff_sd.tl._splits import make_splits

TARGETS = ("log2", "cp10k")
DEFAULT_ROWS = ("default", "published", "ridge", "ridge_context", "better_ridge", "dressed_ridge", "mean", "depth_map")
DEFAULT_ROWS += ("random_spot", "knn", "mlp", "forest", "shuffled:default")
ONCE = ("published", "ridge", "ridge_context", "better_ridge", "mean", "depth_map", "knn_mean", "mlp", "forest")
RESAMPLED = ("pcc50", "pcc_all", "mse", "mae", "crps", "energy", "variogram", "coverage90")
WHOLE = ("rvd_single", "log_var_ratio_single", "gene_corr_single", "moran_single", "coverage90_regions")
TIMES = ("train_seconds", "ms_per_sample")
METRICS = (*RESAMPLED[:4], *WHOLE[:4], *RESAMPLED[4:], WHOLE[4], *TIMES)
COMPARISONS = {
    "better_ridge": ("pcc50", "pcc_all", "mse", "mae"),
    "dressed_ridge": ("crps", "energy", "variogram"),
}
NORMALISED = {"gene_corr_single": hd.metrics.gene_corr_error, "rvd_single": hd.metrics.rvd}


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        found = measure(options)
        found["seconds"] = round(time.perf_counter() - start, 1)
    write_json(options.json, plain(found))
    show(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hest", type=Path, required=True, help="folder in HEST layout")
    parser.add_argument("--test", help="id of the slide that is judged on")
    parser.add_argument("--train", nargs="+", metavar="ID", help="ids of the training slides; by default all others")
    parser.add_argument("--loso", action="store_true", help="leave every slide of --train out in turn")
    parser.add_argument("--seeds", type=int, default=5)
    known = " ".join(DEFAULT_ROWS)
    parser.add_argument(
        "--rows",
        nargs="+",
        default=DEFAULT_ROWS,
        help=f"default: {known}; others: small, default:dit, small:mlp (another trunk) and rows of hd.tl.cross_validate",
    )
    parser.add_argument("--published-minutes", type=float, default=5, help="for the row published, per target")
    parser.add_argument("--published-epochs", type=int, help="train it just so long, however long that takes")
    parser.add_argument("--encoder", default="morphology")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--boot", type=int, default=1000, help="resamples of blocks of spots")
    parser.add_argument("--work", type=Path, help="folder for stores and predictions, kept; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    if options.test is None and not options.loso:
        parser.error("--test ID or --loso is needed")
    here = sorted(p.stem for p in (options.hest / "wsis").glob("*.tif"))
    options.train = options.train or [name for name in here if name != options.test]
    if options.test in options.train:
        parser.error(f"{options.test} is among the training slides")
    unknown = {options.test, *options.train} - {None, *here}
    if unknown:
        parser.error(f"not in {options.hest / 'wsis'}: {', '.join(sorted(unknown))}")
    return options


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def row_of(name: str):
    """A row under the name that it has here."""
    if name.startswith("shuffled:"):
        return Shuffled(row_of(name.removeprefix("shuffled:")))
    if name in ("default", "small"):
        return HisDiffRow(default_preset() if name == "default" else name, label=name)
    preset, _, trunk = name.partition(":")
    if preset in ("default", "small") and trunk:
        return HisDiffRow(default_preset() if preset == "default" else preset, label=name, trunk=trunk)
    return resolve_rows([name])[0]


def measure(options: argparse.Namespace) -> dict:
    logging.getLogger("hisdiff_sd").setLevel(logging.ERROR)
    stores = {n: real_store(options.hest, n, options.work) for n in (*options.train, options.test) if n}
    for path in stores.values():
        hd.pp.embed(hd.io.open(path), options.encoder)
    shifted = {} if options.test is None else shifted_inputs(stores[options.test], options.encoder)
    found: dict = {
        "test": options.test or "each training slide, left out in turn",
        "train": options.train,
        "encoder": options.encoder,
        "seeds": options.seeds,
        "intervals": "95%; 'seeds and blocks': seeds and blocks of 25 neighbouring spots (fewer on small slides) resampled; "
        "'blocks': one seed; 'range of seeds': lowest and highest seed, as these are not resampled by spots; else none",
        "rows": [],
        "comparisons": [],
        "normalised": [],
        "ceiling": {},
        "left_out": {},
        "coverage_by_slide": [],
        "shift": {"explained": EXPLAINED, "errors": [], "cp10k_below_training_mean": {}},
    }
    for target in TARGETS:
        study = Study(options, stores, target)
        found["rows"] += study.rows()
        found["comparisons"] += study.comparisons()
        found["normalised"] += study.normalised()
        found["ceiling"][target] = study.ceiling()
        found["left_out"] |= {f"{n}, {target}": s["left_out"] for n, s in study.notes.items() if "left_out" in s}
        found["split"], found["unit"], found["genes"] = study.split, study.units.text, study.n_genes
        if options.loso:
            found["coverage_by_slide"] += study.coverage_by_slide()
        if shifted:
            errors = study.shift(shifted)
            found["shift"]["errors"] += errors.assign(target=target).to_dict("records")
            if target == "cp10k":
                found["shift"]["cp10k_below_training_mean"] = below_mean(errors)
    return found


@dataclass
class Study:
    """Everything that is measured of one target."""

    options: argparse.Namespace
    stores: dict[str, Path]
    target: str
    scores: dict[str, list[pd.Series]] = field(default_factory=dict)  # of every row, per seed
    draws: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)  # metric -> (n_boot,), per seed
    notes: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seed in range(self.options.seeds):
            named = [n for n in self.options.rows if n != "published" and (seed == 0 or n not in ONCE)]
            if named:
                self._take(self.validate([row_of(n) for n in named], seed, self.options.samples, f"seed{seed}"), named)
        if "published" in self.options.rows:
            path = self.options.work / f"published-{self.target}.json"
            minutes = self.options.published_minutes / len(self.folds)
            plan = published_plan(self.folds[0], minutes, self.options.published_epochs, self.options.samples, path)
            if "left_out" in plan:
                self.notes["published"] = {"left_out": plan["left_out"]}
            else:
                self._published(plan)

    def _published(self, plan: dict) -> None:
        row = HisDiffRow("published", plan["epochs"], plan["steps"], plan["name"])
        cv = self.validate([row], 0, plan["samples"], f"published-{plan['epochs']}-{plan['samples']}-{plan['steps']}")
        self._take(cv, [row.name])
        self.notes[row.name] = {k: plan[k] for k in ("steps", "seconds_per_epoch", "hours_of_all_epochs")}

    def validate(self, rows: Sequence, seed: int, n_samples: int, folder: str, slides=None, by=None) -> CrossValidation:
        say(f"{self.target}, {folder}: {', '.join(r.name for r in rows)}")
        return cross_validate(
            [self.stores[n] for n in slides or self.stores],
            by=by or self.by,
            target=self.target,
            encoder=self.options.encoder,
            rows=rows,
            n_samples=n_samples,
            out=self.options.work / f"cv-{self.target}-{'-'.join(slides or self.stores)}-{folder}",
            seed=seed,
        )

    @property
    def by(self):
        return "slide" if self.options.test is None else {self.options.test: [self.options.test]}

    def _take(self, cv: CrossValidation, names: Sequence[str]) -> None:
        """Keep the scores of a seed, means over slides, and the resamples of those that can be resampled."""
        table = cv.scores()
        self.split = ", ".join(sorted(set(table["split"])))
        self.n_genes = sorted({int(n) for n in table["genes"]})
        patients = {s["name"]: s["patient"] for s in cv.design["slides"]}
        self.units = independent_units([patients[t] for f in cv.design["folds"] for t in f["test"]])
        for name in names:
            own = table[table["row"] == name]
            self.scores.setdefault(name, []).append(own[[*METRICS, "samples"]].mean())
            self.draws.setdefault(name, []).append(self._resampled(cv, name))

    def _resampled(self, cv: CrossValidation, row: str) -> dict[str, np.ndarray]:
        """(n_boot,) means over slides; the resamples are those of every row and seed, so that differences are paired."""
        of_slides = cv._resampled(row, RESAMPLED, self.options.boot, 0)
        return {m: pooled(drawn, self.units, 0) for m, drawn in of_slides.items()}

    def rows(self) -> list[dict]:
        out = []
        for name, scores in self.scores.items():
            line = {"model": name, "target": self.target, "seeds": len(scores), "samples": int(scores[0]["samples"])}
            line |= self.notes.get(name, {})
            for metric in METRICS:
                of_seeds = np.array([s[metric] for s in scores])
                named = {"mean": of_seeds.mean(), "low": np.nan, "high": np.nan, "interval": ""}
                if metric in RESAMPLED:
                    low, high = over_seeds(np.stack([d[metric] for d in self.draws[name]]))
                    named |= {"low": low, "high": high, "interval": "seeds and " * (len(scores) > 1) + "blocks"}
                elif len(scores) > 1:
                    named |= {"low": of_seeds.min(), "high": of_seeds.max(), "interval": "range of seeds"}
                line[metric] = named if np.isfinite(named["mean"]) else None
            out.append(line)
        return out

    def comparisons(self) -> list[dict]:
        """Differences of the default from others, seed by seed and block by block."""
        out = []
        for reference, metrics in COMPARISONS.items():
            if not {"default", reference} <= set(self.scores):
                continue
            for metric in metrics:
                a, b = (np.array([s[metric] for s in self.scores[r]]) for r in ("default", reference))
                drawn = (np.stack([d[metric] for d in self.draws[r]]) for r in ("default", reference))
                low, high = over_seeds(np.subtract(*drawn))
                named = {"target": self.target, "reference": reference, "metric": metric}
                out.append({**named, "difference": (a - b).mean(), "low": low, "high": high})
        return out

    @cached_property
    def folds(self) -> list[FoldData]:
        reading = Reading(self.options.encoder, self.target, None, "black", None, "auto", keys.TABLE)
        cohort = Cohort(list(self.stores.values()), reading)
        cohort.embed(None)
        splits = make_splits(list(cohort.slides), cohort.patients, self.by)
        return [cohort.fold(split, cohort.panel(split)) for split in splits]

    def normalised(self) -> list[dict]:
        """Errors of single samples, 0 as far as a measured neighbouring section and 1 as far as the ridge."""
        out = []
        for metric, error in NORMALISED.items():
            of_folds = [
                np.mean([error(alike(m.y), alike(fold.truth[0].y)) for m in fold.train.truth]) for fold in self.folds
            ]
            floor = float(np.mean(of_folds))
            mean = {name: float(np.mean([s[metric] for s in scores])) for name, scores in self.scores.items()}
            line = {"target": self.target, "metric": metric, "floor": floor, "ridge": mean.get("ridge")}
            if line["ridge"] is not None:
                line |= {"normalised": {n: (m - floor) / (line["ridge"] - floor) for n, m in mean.items()}}
            out.append(line)
        return out

    def ceiling(self) -> float:
        """Median over the genes of the PCC of a perfect prediction, mean over the slides that are judged."""
        out = []
        for fold in self.folds:
            slide, truth = fold.test[0], fold.truth[0]
            table = spatialdata.read_zarr(self.stores[slide.name])[keys.TABLE]
            counts = table[:, fold.train.genes].X[rows_of(table, slide.index, slide.name)]
            out.append(np.median(hd.metrics.thinning_ceiling(counts, self.target, totals=truth.totals)))
        return float(np.mean(out))

    def coverage_by_slide(self) -> list[dict]:
        """Coverage of 90% intervals on each training slide, predicted by models of the others."""
        names = [n for n in ("default", "dressed_ridge") if n in self.options.rows]
        rows = [row_of(n) for n in names]
        # without a test slide these predictions are there already
        cv = self.validate(rows, 0, self.options.samples, "seed0", slides=self.options.train, by="slide")
        table = cv.scores()
        table = table[table["row"].isin(names)].rename(columns={"row": "model"}).assign(target=self.target)
        return table[["target", "slide", "model", "coverage90", "coverage90_regions"]].to_dict("records")

    def shift(self, inputs: dict) -> pd.DataFrame:
        say(f"{self.target}, shifts: {', '.join(inputs)}")
        fold, options = self.folds[0], self.options
        # where the first seed has left its trained model
        work = Store(self.validate([row_of("mean")], 0, options.samples, "seed0").path).work(options.test)
        context = FitContext(fold.train, resolve_device("auto"), 0, work)
        fitted = {n: fit_shared(row_of(n), fold.train.inputs, fold.train.truth, context) for n in ROWS}
        slide = fold.test[0]
        thinned = shallow(self.stores[slide.name], slide, fold.train.genes, self.target, 0)
        return shift_errors(fitted, inputs, fold.truth[0], thinned, self.target, options.samples, 0)


def over_seeds(draws: np.ndarray) -> tuple[float, float]:
    """Interval of resamples (n_seeds, n_boot) if the seeds are drawn with replacement as well."""
    seeds, n_boot = draws.shape
    drawn = np.random.default_rng(0).integers(seeds, size=(n_boot, seeds))
    return interval(draws[drawn, np.arange(n_boot)[:, None]].mean(1))


def alike(y: np.ndarray) -> np.ndarray:
    """(2 G, G) values of the same means and covariances: sections of different spots become comparable in these."""
    n, genes = y.shape
    _, singular, right = np.linalg.svd(y - y.mean(0), full_matrices=False)
    half = np.zeros((genes, genes))
    half[: len(singular)] = singular[:, None] * right * np.sqrt(genes / n)
    return np.vstack([half, -half]) + y.mean(0)


def plain(value):
    """What JSON can hold: no NaN, no numpy."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value


def show(found: dict) -> None:
    """Tables for people."""
    lines = []
    for row in found["rows"]:
        line = {"target": row["target"], "model": row["model"], "seeds": row["seeds"], "samples": row["samples"]}
        lines.append(line | {m: "" if row[m] is None else f"{row[m]['mean']:.3g}" for m in METRICS})
    print(f"\n{found['split']}; {found['genes']} genes; ceiling of the median gene {found['ceiling']}\n")
    print(pd.DataFrame(lines).to_string(index=False))
    for name, why in found["left_out"].items():
        print(f"{name}: left out, {why}")
    print(f"\ndefault less ...; 95% by {found['unit']}\n")
    print(pd.DataFrame(found["comparisons"]).round(4).to_string(index=False))
    print("\none sample, 0 as near as a neighbouring section, 1 as far as the ridge\n")
    lines = [{k: v for k, v in n.items() if k != "normalised"} | n.get("normalised", {}) for n in found["normalised"]]
    print(pd.DataFrame(lines).round(3).to_string(index=False))
    if found["coverage_by_slide"]:
        print("\ncoverage of 90% intervals on left-out training slides\n")
        print(pd.DataFrame(found["coverage_by_slide"]).round(3).to_string(index=False))
    if found["shift"]["errors"]:
        print("\nMSE of the mean of the samples and its parts on a changed slide\n")
        print(pd.DataFrame(found["shift"]["errors"]).set_index(["target", "shift", "model"]).round(3).to_string())
        print("\ncp10k, below the training mean on every scanner:", found["shift"]["cp10k_below_training_mean"])


if __name__ == "__main__":
    main()
