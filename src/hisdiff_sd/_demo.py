"""The whole way once: slides in HEST layout -> stores -> model -> prediction -> figures and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._demo_model import demo_model
from hisdiff_sd._errors import HisDiffError, MissingFileError, check_one_of
from hisdiff_sd._open import open_slide
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._report import write_report
from hisdiff_sd._targets import Target
from hisdiff_sd.io._hest_files import sample_ids
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

N_TOP = 100
N_SAMPLES = 20  # 19 are the fewest with 5% and 95% quantiles
_OF_INTEREST = ("ERBB2", "EPCAM", "COL1A1")
_N_FIGURES = 4
_SYNTHETIC = ("S1", "S2", "S3", "S4")


def run_demo(
    out: Path,
    *,
    hest: Path | None,
    test: str | None,
    encoder: str,
    weights: Path | None,
    target: Target,
    seed: int,
    say: Callable[[str], None],
) -> Path:
    """Run the demo into the folder `out`; return the path of its report.

    Stores that are there already are used as they are, and so is a model of the same slides and settings; an interrupted
    training goes on. Everything else is made anew.
    """
    import hisdiff_sd as hd

    out = out.absolute()
    seconds: dict[str, float] = {}
    # what can be wrong with the command is looked at before anything is written
    names, held_out = _split(hest, test)
    loaded = hd.encoders.load(encoder, weights=weights)
    _make_folders(out)
    with _stage("slides", seconds, say):
        root = hest if hest is not None else hd.datasets.synthetic(out / "hest", slides=_SYNTHETIC, overwrite=True)
    say(f"  held out: {held_out}; trained on: {', '.join(n for n in names if n != held_out)}")
    with _stage("convert", seconds, say):
        slides = {name: _store(Path(root), name, out / "stores" / f"{name}.zarr") for name in names}
    training = [s for n, s in slides.items() if n != held_out]
    with _stage("embed", seconds, say):
        for sdata in slides.values():
            hd.pp.embed(sdata, loaded, overwrite=_embedded_otherwise(sdata, loaded.name, loaded.fingerprint))
    with _stage("genes", seconds, say):
        genes = hd.pp.select_genes(training, n_top=N_TOP, include=_of_interest(training))
    with _stage("train", seconds, say):
        model, took = demo_model(out, training, genes, loaded, target=target, seed=seed, say=say)
    seconds["train"] = took
    test_slide = slides[held_out]
    with _stage("predict", seconds, say):
        hd.tl.predict(test_slide, model, n_samples=N_SAMPLES, seed=seed, overwrite=True)
    with _stage("evaluate", seconds, say):
        table = hd.tl.evaluate(test_slide, model)
    with _stage("plot", seconds, say):
        figures = _figures(test_slide, model, out / "figures")
    say("\n" + table.round(3).to_string(index=False) + f"\n({table.attrs['protocol']}, target {target})")
    report = write_report(out, held_out, model, table, figures, seconds)
    _write_json(out / "report.json", held_out, model, table, figures, seconds)
    say(_next_command(out, held_out))
    return report


@contextmanager
def _stage(name: str, seconds: dict[str, float], say: Callable[[str], None]) -> Iterator[None]:
    start = time.perf_counter()
    say(f"{name} ...")
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    say(f"{name}: {seconds[name]:.1f} s")


def _make_folders(out: Path) -> None:
    try:
        for folder in ("stores", "figures"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HisDiffError(f"cannot write to {out} ({error.strerror}); choose another folder with --out") from error


def _split(root: Path | None, test: str | None) -> tuple[list[str], str]:
    """All slides of a folder, or the synthetic ones, and the one that is held out."""
    if root is None:
        return list(_SYNTHETIC), _SYNTHETIC[-1] if test is None else check_one_of(test, _SYNTHETIC, "synthetic slide")
    if not root.is_dir():
        raise MissingFileError(f"no folder {root}; a HEST root has the folders wsis/, st/ and metadata/")
    names = sample_ids(root)
    if len(names) < 2:
        raise HisDiffError(
            f"{root} has {len(names)} slides ({', '.join(names)}); two are needed, to train on one and test another"
        )
    return names, check_one_of(test, names, f"slide in {root}") if test is not None else names[-1]


def _store(root: Path, name: str, path: Path) -> SpatialData:
    """The slide's store, converted if it is not there or holds another image."""
    import hisdiff_sd as hd

    sdata = hd.io.hest(root, name)
    if path.exists():
        stored = open_slide(path)
        if slide_attrs(stored)["source"] == slide_attrs(sdata)["source"]:
            return stored
    return hd.io.write(sdata, path, overwrite=True)


def _embedded_otherwise(sdata: SpatialData, encoder: str, fingerprint: str) -> bool:
    """Whether the store has embeddings of another version of the encoder."""
    table = sdata.tables.get(keys.embedding_key(keys.SPOTS, encoder))
    return table is not None and get_provenance(table).get("encoder_hash") != fingerprint


def _of_interest(slides: list[SpatialData]) -> list[str]:
    """Well-known genes that every slide has, for readable figures."""
    return [g for g in _OF_INTEREST if all(g in s.tables[keys.TABLE].var_names for s in slides)]


def _figures(sdata: SpatialData, model: HisDiff, folder: Path) -> list[Path]:
    """Maps of genes of interest, else of the genes that varied most in training."""
    import hisdiff_sd as hd

    for old in folder.glob("*.png"):
        old.unlink()
    wanted = [g for g in _OF_INTEREST if g in model.genes]
    if model.baselines is not None:
        wanted += [model.genes[i] for i in model.baselines.top_variance]
    paths = []
    for gene in list(dict.fromkeys(wanted))[:_N_FIGURES]:
        paths.append(folder / f"expression_{gene.replace('/', '_')}.png")
        hd.pl.expression(sdata, gene).savefig(paths[-1], dpi=110)
    loss = pd.read_csv(folder.parent / "model" / "log.csv", dtype={"held_out": str})
    paths.append(folder / "training.png")
    hd.pl.loss(loss, model.config.training["epochs"]).savefig(paths[-1], dpi=110)
    return paths


def _write_json(
    path: Path, held_out: str, model: HisDiff, table: pd.DataFrame, figures: list[Path], seconds: dict[str, float]
) -> None:
    rows = [
        {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in table.to_dict("records")
    ]
    content: dict[str, Any] = {
        "test": held_out,
        "protocol": table.attrs["protocol"],
        "target": model.config.target,
        "encoder": model.config.encoder,
        "genes": len(model.genes),
        "training": model.config.training,
        "metrics": rows,
        "seconds": seconds,
        "figures": [str(f.relative_to(path.parent)) for f in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _next_command(out: Path, held_out: str) -> str:
    store, model = out / "stores" / f"{held_out}.zarr", out / "model"
    return (
        "\nNext, predict a slide with this model, such as the one that was held out:\n"
        '  python -c "import spatialdata, hisdiff_sd as hd; '
        f"s = spatialdata.read_zarr('{store}'); hd.tl.predict(s, '{model}', key_added='again'); print(s['again'])\""
    )
