"""Maps of slides without spots: against the spots, against a known truth, and on a large slide.

    python benchmarks/dense.py spots --demo DIR --json FILE
    python benchmarks/dense.py synthetic --json FILE
    python benchmarks/dense.py large --demo DIR --hest DIR --slide ID --json FILE

`DIR` of --demo is what `hisdiff-sd demo --hest ...` wrote: its model, and the store of the slide that was held out. `spots`
predicts that slide as if it had no spots, at 200, 100 and 50 um, and reads the maps at the measured spots (`hd.tl.read_map`),
those of 200 um with hexagonal (the default) and square grids that start at four places. `synthetic` compares a 50 um map with a
200 um map that is read in between, beside the truth that is known at every 50 um. `large` takes a TIFF of 40,000 x 40,000 px,
made by repeating a real one, said to have 0.25 um per px, the whole way, with tiles all over it; each stage is a process of its
own, whose peak memory is read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import spatialdata
from _common import large_tiff, resident_mib, write_json
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._data import measured
from hisdiff_sd._targets import to_target

STAGES = ("convert", "tissue", "tile", "embed", "predict")
LARGE_PX, LARGE_MPP, LARGE_SPACING = 40_000, 0.25, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("spots", "synthetic", "large", *STAGES), metavar="spots|synthetic|large")
    parser.add_argument("--demo", type=Path, help="folder that `hisdiff-sd demo --hest` wrote")
    parser.add_argument("--hest", type=Path, help="folder in HEST layout")
    parser.add_argument("--slide", help="id of the slide that is repeated")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--work", type=Path, help="folder for the large slide, kept; a temporary one by default")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    if options.part in STAGES:
        stage(options)
    elif options.part == "spots":
        write_json(options.json, against_spots(options))
    elif options.part == "synthetic":
        write_json(options.json, against_truth(options))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            options.work = options.work or Path(temporary)
            write_json(options.json, large(options))


def bare(sdata: SpatialData) -> SpatialData:
    """The slide as if it had never been sequenced, in memory."""
    return SpatialData(images={"he": sdata["he"]}, attrs=sdata.attrs)


def shifted(sdata: SpatialData, model: hd.HisDiff, grid: str, shift_um: tuple[float, float]) -> SpatialData:
    """The bare slide with a grid of 200 um that starts elsewhere."""
    without = bare(sdata)
    hd.pp.tissue(without)
    hd.pp.tile(without, 200, model=model, shapes_key=None, grid=grid)
    tiles = without["tiles_200um"]
    # tiles to the left of the first column, and above the first row, are lost: there is glass on these slides
    x, y = (um / without.attrs["hisdiff_sd"]["mpp"] for um in shift_um)
    tiles.geometry = tiles.geometry.translate(x, y)
    on_tissue = tiles.centroid.within(without["tissue"].union_all())
    without["tiles_200um"] = tiles[on_tissue]
    return without


def against_spots(options: argparse.Namespace) -> dict:
    """PCC-50 of the mean at the measured spots, and how much of it a map loses that is read there."""
    model = hd.HisDiff.load(options.demo / "model")
    report = json.loads((options.demo / "report.json").read_text())
    sdata = spatialdata.read_zarr(options.demo / "stores" / f"{report['test']}.zarr")
    sdata.path = None  # what is made here stays in memory
    how = {"n_samples": options.samples, "steps": options.steps}
    hd.tl.predict(sdata, model, key_added="at_spots", **how)
    spots = sdata["at_spots"]
    truth = measured(sdata["table"], spots.obs_names, model.genes, model.config.target, report["test"]).y
    predicted = np.asarray(spots.X)
    found = {"at the spots": hd.metrics.scores(predicted, truth)["pcc50"]}

    def lost(without: SpatialData, spacing: int) -> float:
        hd.tl.predict(without, model, shapes_key=f"tiles_{spacing}um", **how)
        of_map = hd.tl.read_map(without, spots.obsm["spatial"]).to_numpy()
        near = np.isfinite(of_map).all(1)  # a spot farther than a tile from all tiles has no value
        at, between = (hd.metrics.scores(values[near], truth[near])["pcc50"] for values in (predicted, of_map))
        return at - between

    for spacing in (200, 100, 50):
        without = bare(sdata)
        hd.pp.tissue(without)
        hd.pp.tile(without, spacing, model=model)
        found[f"lost by a map of {spacing} um"] = lost(without, spacing)
        found[f"tiles of {spacing} um"] = len(without[f"tiles_{spacing}um"])
    # how far tiles lie from spots is chance: the same map from four corners
    for grid, row_um in (("hexagonal", 200 * np.sqrt(3) / 2), ("square", 200)):
        corners = [(x, y) for y in (0, row_um / 2) for x in (0, 100)]
        found[f"lost by a map of 200 um, {grid}, shifted"] = {
            f"{x}, {y:.0f} um": lost(shifted(sdata, model, grid, (x, y)), 200) for x, y in corners
        }
    return {"slide": report["test"], "target": model.config.target, **how, **found}


def against_truth(options: argparse.Namespace) -> dict:
    """Correlation with the truth at every 50 um of a synthetic slide, median over the genes that the image shows."""
    how = {"n_samples": options.samples, "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        root = hd.datasets.synthetic(Path(folder) / "hest")
        training = [hd.io.hest(root, name) for name in ("S1", "S2", "S3")]
        genes = hd.pp.select_genes(training, n_top=60)
        model = hd.tl.train(training, genes=genes, encoder="morphology", target="cp10k")
        truth = hd.datasets.synthetic_truth(root, "S4", whole_section=True)[:, model.genes]
        sdata = bare(hd.io.hest(root, "S4"))
        for spacing in (200, 50):
            hd.tl.predict(sdata, model, spacing_um=spacing, **how)
    xy = truth.obsm["spatial"]
    # shares of the counts, so that 1 is the total of each place
    expected = to_target(np.asarray(truth.X), np.ones(truth.n_obs), "cp10k")
    maps = {s: hd.tl.read_map(sdata, xy, key=f"hisdiff_tiles_{s}um").to_numpy() for s in (200, 50)}
    both = np.isfinite(np.hstack(list(maps.values()))).all(1)  # a map ends a tile beyond its last
    r = {spacing: pcc_per_gene(values[both], expected[both]) for spacing, values in maps.items()}
    return {
        **how,
        "genes": len(model.genes),
        "places": truth.n_obs,
        "places_read": int(both.sum()),
        "epochs": model.config.training["epochs"],
        "pcc_50um_map": float(np.median(r[50])),
        "pcc_200um_map_interpolated": float(np.median(r[200])),
        "share_of_genes_better_at_50um": float(np.mean(r[50] > r[200])),
    }


def pcc_per_gene(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(a.shape[1])])


def large(options: argparse.Namespace) -> dict:
    """Seconds and peak memory of every stage on a slide of 40,000 x 40,000 px."""
    options.work.mkdir(parents=True, exist_ok=True)
    large_tiff(options.hest / "wsis" / f"{options.slide}.tif", LARGE_PX, options.work)
    found = {}
    for name in STAGES:
        command = [
            sys.executable,
            __file__,
            name,
            "--work",
            options.work,
            "--demo",
            options.demo,
            "--slide",
            options.slide,
        ]
        command += ["--samples", options.samples, "--steps", options.steps]
        shown = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
        found[name] = json.loads(shown.stdout.splitlines()[-1])
        print(name, found[name], file=sys.stderr)
    return {
        "side_px": LARGE_PX,
        "mpp": LARGE_MPP,
        "spacing_um": LARGE_SPACING,
        "samples": options.samples,
        "steps": options.steps,
        "peak_mib": max(s["peak_mib"] for s in found.values()),
        "stages": found,
    }


def stage(options: argparse.Namespace) -> None:
    """One stage of `large`; prints its figures as JSON."""
    store = options.work / "wsi-large.zarr"
    model = hd.HisDiff.load(options.demo / "model")
    key = f"tiles_{LARGE_SPACING}um"
    start, busy = time.perf_counter(), time.process_time()
    if options.part == "convert":
        tiff = options.work / f"large-{options.slide}.tif"
        hd.io.write(hd.io.wsi(tiff, mpp=LARGE_MPP, slide="large"), store, overwrite=True)
    else:
        sdata = spatialdata.read_zarr(store)
        if options.part == "tissue":
            hd.pp.tissue(sdata, overwrite=True)
        elif options.part == "tile":
            # all over the slide, glass too: as many tiles as a slide full of tissue has
            hd.pp.tile(sdata, LARGE_SPACING, model=model, shapes_key=None, overwrite=True)
        elif options.part == "embed":
            hd.pp.embed(sdata, model.config.encoder, shapes_key=key, overwrite=True)
        else:
            hd.tl.predict(sdata, model, shapes_key=key, n_samples=options.samples, steps=options.steps, overwrite=True)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resident_mib("VmHWM")
    shapes = {} if options.part == "convert" else spatialdata.read_zarr(store).shapes
    found = {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_mib": round(peak)}
    print(json.dumps(found | ({"tiles": len(shapes[key])} if key in shapes else {})))


if __name__ == "__main__":
    main()
