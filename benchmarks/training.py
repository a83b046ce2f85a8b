"""What training takes: seconds, seconds of all cores together, and peak resident memory of a process that does nothing else.

Then 32 samples of every spot of a training slide are drawn, twice, and the faster one is told, in ms per spot and sample.

    python benchmarks/training.py --hest DIR --train C2 C3 C4 --json FILE

Slides are converted and embedded first, by another process. Then each target has a process of its own. The peak is VmHWM of
/proc/self/status (Linux); what is beyond the imports is the peak less the resident memory with everything imported.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import real_store, resident_mib, seconds, write_json

import hisdiff_sd as hd

TARGETS = ("log2", "cp10k")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hest", type=Path, help="folder in HEST layout")
    parser.add_argument("--train", nargs="+", metavar="ID", required=True, help="ids of the training slides")
    parser.add_argument("--encoder", default="morphology")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--work", type=Path, help="folder for the stores, kept; a temporary one by default")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:  # the process that is measured; --train are stores
        print(*measured(options.train, options.encoder, options.target))
        return
    figures: dict = {"train": options.train, "encoder": options.encoder}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        stores = [str(real_store(options.hest, name, work)) for name in options.train]
        for path in stores:
            hd.pp.embed(hd.io.open(path), options.encoder)
        for target in TARGETS:
            command = [sys.executable, __file__, "--train", *stores, "--encoder", options.encoder, "--target", target]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            names = ("spots", "genes", "epochs", "seconds", "cpu_seconds", "peak_mib", "imports_mib", "ms_per_sample")
            figures[target] = dict(zip(names, map(float, done.stdout.split()[-len(names) :]), strict=True))
            beyond = figures[target]["peak_mib"] - figures[target]["imports_mib"]
            figures[target]["beyond_imports_mib"] = round(beyond, 1)
    write_json(options.json, figures)


def measured(stores: list[str], encoder: str, target: str) -> tuple[float, ...]:
    """Of the default training: spots, genes, epochs, seconds, seconds of all cores, peak MiB, MiB of the imports; ms a sample."""
    import lightning  # noqa: F401
    import scanpy  # noqa: F401
    import sklearn.covariance  # noqa: F401
    import spatialdata
    import torch

    import hisdiff_sd.tl._fit_flow
    import hisdiff_sd.tl._lightning_flow  # noqa: F401
    from hisdiff_sd.tl._draws import Draws
    from hisdiff_sd.tl._model_inputs import model_inputs
    from hisdiff_sd.tl._predict import DEFAULT_SAMPLES
    from hisdiff_sd.tl._sample import sample_slide

    logging.getLogger("hisdiff_sd").setLevel(logging.ERROR)
    imports = round(resident_mib("VmRSS"), 1)
    start, cpu = time.perf_counter(), time.process_time()
    model = hd.tl.train(stores, encoder=encoder, target=target)
    taken = round(time.perf_counter() - start, 1), round(time.process_time() - cpu, 1)
    peak = round(resident_mib("VmHWM"), 1)
    slide = model_inputs(spatialdata.read_zarr(stores[0]), model)
    draws, cpu_only = Draws.of(model.process, DEFAULT_SAMPLES), torch.device("cpu")
    best = min(seconds(lambda: sample_slide(model, slide, draws, cpu_only)) for _ in range(2))
    ms = round(1000 * best / (slide.n * draws.n_samples), 3)
    training = model.config.training
    return training["spots"], len(model.genes), training["epochs"], *taken, peak, imports, ms


if __name__ == "__main__":
    main()
