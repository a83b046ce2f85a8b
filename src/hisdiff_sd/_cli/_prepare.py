"""Commands that prepare slides: embed, genes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hisdiff_sd import _keys as keys
from hisdiff_sd._cli import _files as files
from hisdiff_sd._cli import _options as options
from hisdiff_sd._cli._output import emit, emit_stores, plain, records, say
from hisdiff_sd._cli._stores import stores_of, workers


def embed(
    stores: options.Stores,
    encoder: options.Encoder = "uni",
    weights: options.Weights = None,
    tile_um: options.TileUm = None,
    padding: options.Padding = "black",
    shapes: Annotated[str, typer.Option("--shapes", help="Spots or grid whose tiles are embedded.")] = keys.SPOTS,
    dtype: Annotated[str, typer.Option(help="float32, or float16 for half the bytes.")] = "float32",
    batch_size: Annotated[int | None, typer.Option(help="Tiles that are embedded together.")] = None,
    key: Annotated[str | None, typer.Option(help="Name of the table; <shapes>_<encoder> by default.")] = None,
    device: options.Device = "auto",
    companions: options.Companions = None,
    workers_: options.Workers = 1,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Embed the tiles of slides with an encoder.

    What is done already is skipped.

    For example:
      hisdiff-sd embed stores
      hisdiff-sd embed stores/SPA147.zarr stores/SPA148.zarr --encoder morphology
      hisdiff-sd embed /shared/stores --companions mine --encoder uni --weights pytorch_model.bin
    """
    from hisdiff_sd import encoders, map_stores, pp
    from hisdiff_sd._cli._plan import planned_tables
    from hisdiff_sd.pp._embed import embedding_protocol

    paths = stores_of(stores)
    # what is wrong whatever the slide is said once, not once a slide
    embedding_protocol(tile_um, padding, dtype, batch_size)
    if dry_run:
        plan = planned_tables(paths, key or keys.embedding_key(shapes, encoder), companions)
        emit({"command": "embed", "dry_run": True, "stores": records(plan)}, plain(plan), json)
        return
    how: dict[str, Any] = {"tile_um": tile_um, "padding": padding, "shapes_key": shapes}
    how |= {"dtype": dtype, "batch_size": batch_size, "key_added": key, "overwrite": overwrite}
    with workers(workers_) as client:
        if client is None:
            how["encoder"] = encoders.load(encoder, weights=weights, device=device)
        else:
            how |= {"encoder": encoder, "weights": weights}
            # every worker is given its own GPU, unless one is asked for
            how |= {} if device == "auto" else {"device": device}
        table = map_stores(pp.embed, paths, client=client, companions=companions, **how)
    emit_stores("embed", table, json)


def genes(
    stores: options.Stores,
    n_top: Annotated[int, typer.Option(help="Genes of each of the two rankings, by mean and by deviation.")] = 300,
    include: Annotated[str | None, typer.Option(help="Genes that are kept whatever their rank, such as ERBB2.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the panel, one gene a line.")] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Choose the gene panel on training slides.

    For example:
      hisdiff-sd genes stores/SPA146.zarr stores/SPA147.zarr --out genes.txt
      hisdiff-sd genes train_stores --n-top 200 --include ERBB2,EPCAM
    """
    from hisdiff_sd import pp

    paths = stores_of(stores)
    if out is not None:
        files.check_file(out, overwrite)
    panel = pp.select_genes(paths, n_top=n_top, include=options.listed(include))
    if out is not None:
        files.write_panel(panel, out)
        say(f"{len(panel)} genes of {len(paths)} slide{'s' * (len(paths) > 1)}: {out}")
    emit({"command": "genes", "slides": len(paths), "genes": panel}, "\n".join(panel), json)
