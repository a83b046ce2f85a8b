"""Samplers of the published process: quality against evaluations of the network, speed, sameness, memory.

    python benchmarks/sampling.py --hest DIR --json FILE

curve       a model of preset `small` (100 genes at most) of the slides of --train, drawn from by every sampler in 1 to 50 steps
            on the slide of --dev; the published sampler also in 100, 250 and 1,000
gaps        the default sampler less 1,000 steps of the published one, same checkpoint, on --dev and then on --test, which is
            drawn from by these two alone; scores are means over single samples (4 of the published sampler, which take long,
            16 of the default); paired over spots, 95% intervals from resampled blocks of neighbouring spots
speed       a plain implementation of the published loop (condition recomputed in every step, batches of 128, timed over 5 of its
            1,000 steps) beside ours, in fp32 and in the default precision; preset `published`, 300 genes, random weights
whole       the same for the default number of samples of a whole slide, from 256 of its spots
invariance  largest difference of samples between batches of 1, 7 and 128, and of tables made by 1 and by 2 workers
memory      of 4,000 spots, 300 genes, 32 samples, beyond the model; a process of its own

Parts can be asked for with --parts. Whatever lies in --work is taken up again: samples are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import spatialdata
import torch
from _common import real_store, write_json
from _sampling import speed_figures, whole_slide_figures

import hisdiff_sd as hd
from hisdiff_sd._data import measured, slide_inputs
from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS
from hisdiff_sd.tl._bootstrap import Blocks, interval
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._sample import sample_slide

PARTS = ("curve", "gaps", "speed", "whole", "invariance", "memory")
STEPS = (1, 2, 5, 10, 20, 50)
PUBLISHED_STEPS = (100, 250, 1000)
CPU = torch.device("cpu")
SCORES = ("pcc50", "mse", "rvd", "log_var_ratio", "gene_corr_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hest", type=Path, help="folder in HEST layout")
    parser.add_argument("--train", nargs="+", default=["C2", "C3"], metavar="ID")
    parser.add_argument("--dev", default="C4", metavar="ID")
    parser.add_argument(
        "--test", metavar="ID", help="slide that the default and the published sampler are compared on once"
    )
    parser.add_argument("--target", default="log2")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument(
        "--more-samples", type=int, default=16, help="of the default sampler, where it is compared: they cost little"
    )
    parser.add_argument("--boot", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=2, help="of timings of the speed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--work", type=Path, help="folder for stores, model and samples, kept; a temporary one by default"
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    if options.hest is None and {"curve", "gaps", "invariance"} & set(options.parts):
        parser.error("--hest DIR is needed")
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        write_json(options.json, measure(options))


def measure(options: argparse.Namespace) -> dict:
    found: dict = {"target": options.target, "samples": options.samples, "default": DEFAULT_SAMPLER}
    found["steps"] = SAMPLERS[DEFAULT_SAMPLER]
    if {"curve", "gaps"} & set(options.parts):
        study = Study(options)
        found["genes"] = len(study.model.genes)
        if "curve" in options.parts:
            found["curve"] = study.curve()
        if "gaps" in options.parts:
            found["gaps"] = {slide: study.gaps(slide) for slide in (options.dev, options.test) if slide}
            found |= found["gaps"][options.test or options.dev]["gap"]
    if "speed" in options.parts:
        found |= speed_figures(options.pairs)
    if "whole" in options.parts:
        found |= whole_slide_figures()
    if "invariance" in options.parts:
        found["batch_invariance_max_diff"], found["worker_max_diff"] = invariance(options)
    if "memory" in options.parts:
        command = [sys.executable, "-c", "import _sampling; print(_sampling.memory_of())"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
        found["peak_mib_beyond_model"] = float(told.stdout.split()[-1])
    return found


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def model_of(options: argparse.Namespace) -> hd.HisDiff:
    """Preset `small` of the training slides, trained once."""
    folder = options.work / f"small-{options.target}-{'-'.join(options.train)}"
    if not folder.exists():
        slides = [spatialdata.read_zarr(embedded(options, name)) for name in options.train]
        genes = hd.pp.select_genes(slides, n_top=100)
        say(f"training on {', '.join(options.train)}")
        how = {"genes": genes, "encoder": "morphology", "target": options.target, "preset": "small"}
        hd.tl.train(slides, **how).save(folder)
    return hd.HisDiff.load(folder)


def embedded(options: argparse.Namespace, name: str) -> Path:
    store = real_store(options.hest, name, options.work)
    hd.pp.embed(spatialdata.read_zarr(store), "morphology")
    return store


class Study:
    """One checkpoint, drawn from by every sampler."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = model_of(options)
        self.slides = {name: self._slide(name) for name in (options.dev, options.test) if name}

    def _slide(self, name: str):
        sdata = spatialdata.read_zarr(embedded(self.options, name))
        config = self.model.config
        inputs = slide_inputs(sdata, "spots_morphology", near=config.near, wide=config.wide)
        return inputs, measured(sdata["table"], inputs.index, self.model.genes, config.target, name).y

    def samples(self, name: str, sampler: str, steps: int, n: int | None = None) -> tuple[np.ndarray, float]:
        """Samples of a slide, and milliseconds per spot and sample."""
        inputs, _ = self.slides[name]
        n = self.options.samples if n is None else n
        path = self.options.work / f"{self.options.target}-{name}-{sampler}-{steps}-{n}.npz"
        if not path.exists():
            say(f"{name}: {sampler}, {steps} steps")
            draws = Draws.of("ddpm", n, sampler=sampler, steps=steps)
            start = time.perf_counter()
            drawn = sample_slide(self.model, inputs, draws, CPU)
            ms = 1000 * (time.perf_counter() - start) / (inputs.n * n)
            np.savez(path, samples=drawn, ms=ms)
        with np.load(path) as stored:
            return stored["samples"], float(stored["ms"])

    def curve(self) -> list[dict]:
        """Scores of single samples, the mean over the samples; fair CRPS of all."""
        _, truth = self.slides[self.options.dev]
        rows = []
        for sampler in SAMPLERS:
            more = PUBLISHED_STEPS if sampler == "ancestral" else ()
            extra = {SAMPLERS[DEFAULT_SAMPLER]} if sampler == DEFAULT_SAMPLER else set()
            for steps in sorted({*STEPS, *more, *extra}):
                drawn, ms = self.samples(self.options.dev, sampler, steps)
                scores = [hd.metrics.scores(one, truth) for one in drawn]
                row = {"sampler": sampler, "steps": steps}
                row |= {name: float(np.mean([s[name] for s in scores])) for name in SCORES}
                row |= {"crps": float(hd.metrics.crps(drawn, truth)), "ms_per_sample": ms}
                row["pcc50_of_mean"] = hd.metrics.scores(drawn.mean(0), truth)["pcc50"]
                rows.append(row)
                say(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))
        return rows

    def gaps(self, name: str) -> dict:
        """The default less 1,000 steps of the published sampler, on one slide."""
        inputs, truth = self.slides[name]
        ours, _ = self.samples(name, DEFAULT_SAMPLER, SAMPLERS[DEFAULT_SAMPLER], self.options.more_samples)
        published, _ = self.samples(name, "ancestral", 1000)
        blocks = Blocks(inputs.xy, self.options.boot, 0, name)
        both = (ours, published)
        crps = [hd.metrics.crps(s, truth, per_spot=True) for s in both]
        each = [[top50(one, truth) for one in s] for s in both]
        values = {
            "pcc50_gap": [np.mean(e) for e in each],
            "crps_gap": [c.mean() for c in crps],
            "rvd_gap": [np.mean([hd.metrics.rvd(one, truth) for one in s]) for s in both],
            "gene_corr_gap": [np.mean([hd.metrics.gene_corr_error(one, truth) for one in s]) for s in both],
        }

        def gap(rows: np.ndarray) -> float:
            mine, theirs = (np.mean([top50(one[rows], truth[rows]) for one in s]) for s in both)
            return float(mine - theirs)

        resampled = blocks.recomputed(gap)
        return {
            "default": {k.removesuffix("_gap"): float(v[0]) for k, v in values.items()},
            "ancestral 1000": {k.removesuffix("_gap"): float(v[1]) for k, v in values.items()},
            "pcc50 of each published sample": each[1],
            "gap": {k: float(v[0] - v[1]) for k, v in values.items()},
            "pcc50_interval": interval(resampled),
            "crps_interval": interval(blocks.means(crps[0] - crps[1])),
        }


def top50(prediction: np.ndarray, truth: np.ndarray) -> float:
    return hd.metrics.pcc_top(prediction, truth, 50)


def invariance(options: argparse.Namespace) -> tuple[float, float]:
    """Largest differences on the target scale: batches of 1, 7 and 128; tables that 1 and 2 worker processes make."""
    import shutil

    from dask.distributed import Client, LocalCluster

    model = model_of(options)
    store = embedded(options, options.dev)
    inputs = slide_inputs(spatialdata.read_zarr(store), "spots_morphology", near=9, wide=49)
    drawn = [sample_slide(model, inputs, Draws.of("ddpm", 2, batch_size=size), CPU) for size in (1, 7, 128)]
    batches = max(float(np.abs(d - drawn[0]).max()) for d in drawn[1:])
    tables = []
    for workers in (1, 2):
        copies = [options.work / f"{workers}-workers-{i}.zarr" for i in range(2)]
        for path in copies:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(store, path)
        with LocalCluster(n_workers=workers, threads_per_worker=1) as cluster, Client(cluster) as client:
            report = hd.map_stores(hd.tl.predict, copies, client=client, model=model, n_samples=4, device="cpu")
        assert (report["status"] == "done").all(), report
        tables += [np.asarray(spatialdata.read_zarr(path)["hisdiff"].X) for path in copies]
        for path in copies:
            shutil.rmtree(path)
    return batches, max(float(np.abs(t - tables[0]).max()) for t in tables[1:])


if __name__ == "__main__":
    main()
