"""How much one more training slide helps: the default model and ridges that have learned from 1, 2, ... slides.

    python benchmarks/learning_curve.py --hest DIR --slides C2 C3 C4 --json FILE
    python benchmarks/learning_curve.py --hest DIR --slides C2 C3 C4 --test C5 --json FILE
    python benchmarks/learning_curve.py --synthetic 6 --test S1 S2 S3 --targets log2 --subsets 1 --json FILE

Each slide is held out in turn, or those of --test alone. Printed are

    scores   mean over held-out slides (and seeds) of the means over training sets, and the lowest and highest of a single one
    gains    what one more slide changes: mean over held-out slides, and the lowest and highest of a held-out slide

The genes of a held-out slide are chosen on all slides that are not held out, and are the same for every number of training
slides. Whatever lies in --work is taken up again.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
from _common import machine, real_store

import hisdiff_sd as hd
from hisdiff_sd.tl import HisDiffRow
from hisdiff_sd.tl._rows_hisdiff import default_preset

METRICS = ("pcc50", "pcc_all", "mse", "crps", "energy", "variogram", "coverage90")
ROWS = ("default", "ridge", "dressed_ridge")
SIZE_UM, N_GENES = (2000.0, 1800.0), 100  # of a synthetic slide
OF_SCORE, OF_GAIN = ["target", "n_slides", "row", "metric"], ["target", "row", "metric", "slide"]


def main() -> None:
    options = parse()
    logging.getLogger("hisdiff_sd").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        table = measure(options)
    if options.figure:
        for target, own in table.groupby("target"):
            figure = hd.pl.learning_curve(own)
            figure.savefig(options.figure.with_stem(f"{options.figure.stem}-{target}"), dpi=200)
    scores, gains = scores_of(table), gains_of(table)
    found = {"seconds": round(time.perf_counter() - start, 1), "table": table.to_dict("records")}
    found |= {"machine": machine(), "scores": scores.to_dict("records"), "gains": gains.to_dict("records")}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['machine']}; {found['seconds']:.0f} s\n{', '.join(sorted(set(table['split'])))}\n")
    for name, long in (("scores", scores), ("gains", gains)):
        print(f"{name}: mean (lowest to highest, if there are several)\n")
        print(markdown(long, "+" * (name == "gains")), "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--hest", type=Path, help="folder in HEST layout")
    source.add_argument("--synthetic", type=int, metavar="N", help="make so many synthetic slides, of as many patients")
    parser.add_argument("--slides", nargs="+", metavar="ID", help="ids of the slides; by default all")
    parser.add_argument("--test", nargs="+", metavar="ID", help="hold these out in turn, and no others")
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of training slides; by default all")
    parser.add_argument("--subsets", type=int, default=3, help="training sets of each number, at most")
    parser.add_argument("--targets", nargs="+", default=["log2", "cp10k"])
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--encoder", default="morphology")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--work", type=Path, help="folder for stores and predictions, kept; a temporary one by default")
    parser.add_argument("--figure", type=Path, help="file for the curves; the target is added to its name")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """The learning curves of all targets and seeds, with a column ``seed``."""
    root = options.hest
    if options.synthetic:
        root = options.work / "hest"
        if not root.exists():
            names = [f"S{i}" for i in range(1, options.synthetic + 1)]
            hd.datasets.synthetic(root, slides=names, slides_per_patient=1, size_um=SIZE_UM, mpp=1.1, n_genes=N_GENES)
    here = sorted(p.stem for p in (root / "wsis").glob("*.tif"))
    tests = options.test or []
    by = {name: [name] for name in tests} or "slide"
    stores = [real_store(root, name, options.work) for name in dict.fromkeys((*(options.slides or here), *tests))]
    for path in stores:
        hd.pp.embed(hd.io.open(path), options.encoder)
    rows = [HisDiffRow(default_preset(), label=r) if r == "default" else r for r in options.rows]
    out = []
    for target in options.targets:
        for seed in range(options.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say of patients is printed
                table = hd.tl.learning_curve(
                    stores,
                    options.sizes,
                    rows=rows,
                    metrics=METRICS,
                    n_subsets=options.subsets,
                    by=by,
                    target=target,
                    encoder=options.encoder,
                    n_samples=options.samples,
                    out=options.work / f"curve-{'-'.join(tests) or 'each'}-{target}-seed{seed}",
                    seed=seed,
                )
            out.append(table.assign(seed=seed))
    return pd.concat(out, ignore_index=True)


def markdown(long: pd.DataFrame, sign: str) -> str:
    """A table with a column for each metric."""
    index = [c for c in long.columns if c not in ("metric", "mean", "low", "high")]
    text = []
    for mean, low, high in zip(long["mean"], long["low"], long["high"], strict=True):
        ends = f" ({low:{sign}.3f} to {high:{sign}.3f})" if low < high else ""  # of a single value there are none
        text.append(f"{mean:{sign}.3f}{ends}")
    wide = long.assign(text=text).pivot_table(index=index, columns="metric", values="text", aggfunc="first", sort=False)
    wide = wide[[m for m in METRICS if m in wide]].reset_index().fillna("")
    lines = [list(wide.columns), ["---"] * len(wide.columns), *wide.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    ends = table.assign(low=table["low"].fillna(table["value"]), high=table["high"].fillna(table["value"]))
    groups = ends.dropna(subset="value").groupby(OF_SCORE, sort=False)
    return groups.agg(mean=("value", "mean"), low=("low", "min"), high=("high", "max")).reset_index()


def gains_of(table: pd.DataFrame) -> pd.DataFrame:
    """Differences of consecutive numbers of slides, paired by held-out slide."""
    wide = table.pivot_table(index=OF_GAIN, columns="n_slides", values="value", sort=False)
    parts = []
    for fewer, more in zip(wide.columns, wide.columns[1:], strict=False):
        change = (wide[more] - wide[fewer]).dropna().groupby(OF_GAIN[:3], sort=False).agg(["mean", "min", "max"])
        named = change.rename(columns={"min": "low", "max": "high"}).reset_index()
        parts.append(named.assign(slides=f"{fewer} to {more}"))
    order = ["target", "slides", "row", "metric", "mean", "low", "high"]
    return pd.concat(parts, ignore_index=True)[order] if parts else pd.DataFrame(columns=order)


if __name__ == "__main__":
    main()
