"""Commands on models: train, predict, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hisdiff_sd._cli import _files as files
from hisdiff_sd._cli import _options as options
from hisdiff_sd._cli._output import emit, emit_stores, plain, records, say
from hisdiff_sd._cli._stores import slide_of, stores_of, workers
from hisdiff_sd._errors import check_one_of
from hisdiff_sd._whole_file import write_text

Genes = Annotated[str | None, typer.Option("--genes", help="File with a gene a line, or names such as ERBB2,EPCAM.")]


def train(
    stores: options.Stores,
    out: Annotated[Path, typer.Option(help="Folder for the model.", show_default=False)],
    genes: Genes = None,
    encoder: options.Encoder = "uni",
    weights: options.Weights = None,
    tile_um: options.TileUm = None,
    padding: options.Padding = "black",
    target: options.Target = "log2",
    preset: options.Preset = "flow",
    trunk: options.Trunk = None,
    epochs: Annotated[int | None, typer.Option(help="Just so many; else chosen by leaving slides out.")] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a model on measured slides.

    A training that was interrupted goes on. Genes are chosen on these slides unless they are given. Slides that are to
    be judged later must not be among them.

    For example:
      hisdiff-sd train stores/SPA146.zarr stores/SPA147.zarr --out models/breast
      hisdiff-sd train train_stores --out models/small --encoder morphology --genes genes.txt --target cp10k
    """
    paths = stores_of(stores)
    panel = files.panel_of(genes)
    check_one_of(target, options.TARGETS, "target")
    check_one_of(preset, options.PRESETS, "preset")
    if trunk is not None:
        check_one_of(trunk, options.TRUNKS, "trunk")
    if dry_run:
        slides = [slide_of(path) for path in paths]
        what = {"slides": slides, "genes": panel, "encoder": encoder, "target": target, "preset": preset}
        text = f"{preset} on {len(slides)} slides ({', '.join(slides)}): {out}"
        emit({"command": "train", "dry_run": True, "model": str(out), **what}, text, json)
        return
    from hisdiff_sd import tl

    model = tl.train(
        paths,
        genes=panel,
        encoder=encoder,
        weights=weights,
        tile_um=tile_um,
        padding=padding,
        target=target,  # type: ignore[arg-type]
        preset=preset,
        trunk=trunk,
        epochs=epochs,
        out=out,
        device=device,
        seed=seed,
        overwrite=overwrite,
    )
    say(repr(model))
    emit({"command": "train", **about(model, out)}, str(out), json)


def predict(
    stores: options.Stores,
    model: options.Model = None,
    genes: Genes = None,
    spacing_um: Annotated[float | None, typer.Option(help="Distance of the tiles of a map of all the tissue.")] = None,
    n_samples: Annotated[int, typer.Option(help="Samples per spot.")] = 32,
    sampler: Annotated[str | None, typer.Option(help="Of a published process: see hd.tl.predict.")] = None,
    steps: Annotated[int | None, typer.Option(help="Evaluations of the network per sample.")] = None,
    keep_samples: Annotated[int | None, typer.Option(help="How many samples are kept; one by default.")] = None,
    depth: Annotated[float, typer.Option(help="Counts per spot relative to the training slides (log2).")] = 1.0,
    seed: options.Seed = 0,
    key: Annotated[str | None, typer.Option(help="Name of the table; hisdiff, or hisdiff_<grid>, by default.")] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    companions: options.Companions = None,
    workers_: options.Workers = 1,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Predict expression at spots, or all over tissue.

    What is done already is skipped.

    For example:
      hisdiff-sd predict stores/SPA148.zarr --model models/breast
      hisdiff-sd predict clinic_stores --model lab/breast-model --spacing-um 50
    """
    from hisdiff_sd import map_stores, tl
    from hisdiff_sd._cli._plan import planned_prediction, planned_tables
    from hisdiff_sd._device import resolve_device
    from hisdiff_sd.tl._depth import check_depth
    from hisdiff_sd.tl._draws import Draws
    from hisdiff_sd.tl._model_inputs import resolve_model
    from hisdiff_sd.tl._predict import check_spacing
    from hisdiff_sd.tl._prediction_run import panel_columns
    from hisdiff_sd.tl._prediction_table import check_kept

    paths = stores_of(stores)
    # what is wrong whatever the slide is said once, not once a slide
    check_spacing(spacing_um)
    draws: dict[str, Any] = {"n_samples": n_samples, "sampler": sampler, "steps": steps, "seed": seed}
    check_kept(keep_samples, n_samples)
    bundle, panel = resolve_model(model), files.panel_of(genes)
    Draws.of(bundle.process, **draws)
    check_depth(depth, bundle.config.target)
    panel_columns(bundle, panel)
    resolve_device(device)
    if dry_run:
        import pandas as pd

        plan = pd.concat(
            [planned_tables([p], planned_prediction(p, key, spacing_um), companions) for p in paths], ignore_index=True
        )
        emit({"command": "predict", "dry_run": True, "stores": records(plan)}, plain(plan), json)
        return
    how: dict[str, Any] = {"model": model, "genes": panel, "spacing_um": spacing_um, "keep_samples": keep_samples}
    how |= {**draws, "depth": depth, "key_added": key, "weights": weights, "overwrite": overwrite}
    how |= {} if device == "auto" else {"device": device}
    with workers(workers_) as client:
        table = map_stores(tl.predict, paths, client=client, companions=companions, **how)
    emit_stores("predict", table, json)


def evaluate(
    stores: options.Stores,
    model: options.Model = None,
    key: Annotated[str, typer.Option(help="Table of the prediction; made if it is not there.")] = "hisdiff",
    companions: options.Companions = None,
    out: Annotated[Path | None, typer.Option(help="File for the scores, CSV.")] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Judge predictions against measured counts.

    Beside them stand the baselines of the same training slides.

    For example:
      hisdiff-sd evaluate stores/SPA148.zarr --model models/breast
      hisdiff-sd evaluate test_stores --model models/breast --out scores.csv
    """
    paths = stores_of(stores)
    if out is not None:
        files.check_file(out, overwrite)
    table = scores_of(paths, model, key, companions)
    if out is not None:
        write_text(out, table.to_csv(index=False))
        say(f"scores of {len(paths)} slide{'s' * (len(paths) > 1)}: {out}")
    emit({"command": "evaluate", "scores": records(table)}, plain(table), json)


def report(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store of a slide with a prediction.")],
    key: Annotated[
        str | None, typer.Option(help="Table of the prediction; 'hisdiff', or the only one, by default.")
    ] = None,
    genes: Annotated[str | None, typer.Option(help="Genes whose maps are shown, such as ERBB2,EPCAM.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write; <store>_report.html here by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
    json: options.Json = False,
) -> None:
    """Write what a model says of a slide as a page.

    It is one HTML file that opens offline, and says how far to believe the prediction.

    For example:
      hisdiff-sd report stores/SPA148.zarr
      hisdiff-sd report stores/SPA148.zarr --genes ERBB2 --out SPA148.html
    """
    from hisdiff_sd import pl

    asked = None if genes is None else options.listed(genes)
    path = Path(f"{store.stem}_report.html") if out is None else out
    page = pl.report(store, path, key=key, genes=asked, overwrite=overwrite)
    emit({"command": "report", "path": str(page)}, f"Report: {page}", json)


def about(model: Any, path: Path) -> dict[str, Any]:
    """What a training made, for JSON."""
    training, trust = model.config.training, model.trust
    reliable = None if trust is None or trust.genes is None else int(trust.genes.reliable.sum())
    return {
        "model": str(path),
        "hash": model.fingerprint,
        "process": model.process,
        "target": model.config.target,
        "encoder": model.config.encoder,
        "slides": training.get("slides", []),
        "epochs": training.get("epochs"),
        "genes": len(model.genes),
        "reliable_genes": reliable,
    }


def scores_of(paths: list[str], model: str | Path | None, key: str = "hisdiff", companions: Path | None = None) -> Any:
    """Scores of all slides, with the slide and how independent it is of the training slides in front."""
    import pandas as pd

    from hisdiff_sd import io, tl
    from hisdiff_sd.tl._model_inputs import resolve_model

    bundle = resolve_model(model)
    tables = []
    for path in paths:
        companion = None if companions is None else companions / Path(path).name
        found = tl.evaluate(io.open(path, companion=companion), bundle, key=key)
        found.insert(0, "protocol", found.attrs["protocol"])
        found.insert(0, "slide", slide_of(path))
        tables.append(found.assign(target=found.attrs["target"]))
    for table in tables:
        table.attrs = {}  # they differ from slide to slide, and are columns now
    return pd.concat(tables, ignore_index=True)
