"""The command that compares methods: cross-validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hisdiff_sd._cli import _files as files
from hisdiff_sd._cli import _options as options
from hisdiff_sd._cli._output import emit, plain, records, say
from hisdiff_sd._cli._stores import stores_of


def cross_validate(
    stores: options.Stores,
    by: Annotated[str, typer.Option(help="slide, patient, or a file with folds (JSON or CSV).")] = "slide",
    rows: Annotated[
        str | None, typer.Option(help="Methods, such as ridge,knn,hisdiff; the quick ones by default.")
    ] = None,
    genes: Annotated[str | None, typer.Option(help="A panel that is given; chosen in each fold by default.")] = None,
    target: options.Target = "log2",
    encoder: options.Encoder = "uni",
    weights: options.Weights = None,
    tile_um: options.TileUm = None,
    padding: options.Padding = "black",
    n_samples: Annotated[int, typer.Option(help="Samples of each method that has any.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder for predictions and models; with it the same call goes on.")
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare methods on slides that were left out.

    For example:
      hisdiff-sd cross-validate stores --by patient --target cp10k --out cv
      hisdiff-sd cross-validate stores --rows mean,ridge,dressed_ridge,hisdiff --out cv --json
    """
    from hisdiff_sd import tl

    found = tl.cross_validate(
        stores_of(stores),
        by=by,
        target=target,  # type: ignore[arg-type]
        genes=files.panel_of(genes),
        encoder=encoder,
        rows=options.listed(rows) or None,
        n_samples=n_samples,
        tile_um=tile_um,
        padding=padding,
        weights=weights,
        out=out,
        device=device,
        seed=seed,
    )
    summary = found.summary()
    say(str(summary.attrs.get("unit", "")))
    result = {"command": "cross-validate", "out": None if out is None else str(out)}
    emit({**result, "scores": records(found.scores()), "summary": records(summary)}, plain(summary), json)
