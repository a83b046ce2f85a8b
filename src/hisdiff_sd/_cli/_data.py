"""Commands on files: download, samples, convert, check, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hisdiff_sd._cli import _files as files
from hisdiff_sd._cli import _options as options
from hisdiff_sd._cli._app import Code
from hisdiff_sd._cli._output import emit, emit_stores, plain, records, say
from hisdiff_sd._cli._stores import stores_of, workers
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._whole_file import write_with

_SAMPLE_COLUMNS = ("id", "organ", "technology", "patient", "mpp", "spots", "genes", "st", "wsis")
Samples = Annotated[str | None, typer.Option("--samples", help="Ids of slides, such as SPA147,SPA148; all by default.")]


def download(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT", help="Ids such as SPA148, datasets such as HER2ST, or organ=Breast.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files, in HEST layout.", show_default=False)],
    token: Annotated[
        str | None, typer.Option(envvar="HF_TOKEN", help="Read token of the Hugging Face hub.", show_envvar=True)
    ] = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Fetch slides of HEST-1k, or the data of the paper.

    A download that was interrupted goes on. For HEST-1k, the terms of MahmoodLab/hest have to be accepted on the
    Hugging Face hub first.

    For example:
      hisdiff-sd download SPA147 SPA148 --out hest_data --dry-run
      hisdiff-sd download HER2ST --out hest_data
    """
    from hisdiff_sd import io

    files = io.download(what[0] if len(what) == 1 else what, out, token=token, dry_run=dry_run)
    emit({"command": "download", "dry_run": dry_run, "files": records(files)}, plain(files), json)


def samples(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder in HEST layout.", show_default=False)],
    organ: Annotated[str | None, typer.Option(help="Such as Breast; several: Breast,Skin.")] = None,
    technology: Annotated[str | None, typer.Option(help="Such as Visium.")] = None,
    species: Annotated[str | None, typer.Option(help="Such as 'Homo sapiens'.")] = None,
    patient: Annotated[str | None, typer.Option(help="Id of a patient.")] = None,
    max_mpp: Annotated[float | None, typer.Option(help="Largest pixels, in um.")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Only slides whose image and counts are there.")] = False,
    json: options.Json = False,
) -> None:
    """List the slides of a folder in HEST layout.

    For example:
      hisdiff-sd samples hest_data --organ Breast
      hisdiff-sd samples hest_data --technology Visium --complete --json
    """
    from hisdiff_sd import io

    kept = {"organ": organ, "technology": technology, "species": species, "patient": patient}
    asked = {name: options.listed(value) for name, value in kept.items() if value is not None}
    found = io.hest_samples(folder, max_mpp=max_mpp, complete=complete, **asked)
    table = found.rename_axis("id").reset_index()
    shown = table[[c for c in _SAMPLE_COLUMNS if c in table]]
    emit({"command": "samples", "samples": records(table)}, plain(shown), json)


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder in HEST layout, or a sample sheet (CSV).", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the stores: <id>.zarr.", show_default=False)],
    samples: Samples = None,
    compression: Annotated[str, typer.Option(help="How pixels are packed: see hd.io.write.")] = "zstd",
    link: Annotated[bool, typer.Option("--link", help="Leave the pixels in their file, and refer to it.")] = False,
    workers_: options.Workers = 1,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Make a SpatialData store of every slide.

    Slides that are converted already are skipped.

    For example:
      hisdiff-sd convert hest_data stores
      hisdiff-sd convert hest_data stores --samples SPA147,SPA148 --workers 2
    """
    from hisdiff_sd import io
    from hisdiff_sd._cli._plan import planned_conversions

    names = options.listed(samples) or None
    if dry_run:
        plan = planned_conversions(source, out, names)
        emit({"command": "convert", "dry_run": True, "stores": records(plan)}, plain(plan), json)
        return
    with workers(workers_) as client:
        table = io.convert(
            source, out, samples=names, client=client, compression=compression, link=link, overwrite=overwrite
        )
    emit_stores("convert", table, json)


def check(
    stores: options.Stores,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without losing anything.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every chunk of the images as well.")] = False,
    json: options.Json = False,
) -> None:
    """Look whether stores are whole.

    It ends with 3 if a store has an error that was not mended.

    For example:
      hisdiff-sd check stores
      hisdiff-sd check stores/SPA148.zarr --deep --repair
    """
    import pandas as pd

    from hisdiff_sd import io

    tables = []
    for store in stores_of(stores, damaged=True):
        try:
            found = io.check(store, repair=repair, deep=deep)
        except HisDiffError as error:  # one that is no store hides the others no more than a damaged one
            found = pd.DataFrame([{"severity": "error", "where": store, "problem": str(error), "repaired": False}])
        found.insert(0, "store", store)
        tables.append(found)
    table = pd.concat(tables, ignore_index=True)
    errors = table[(table["severity"] == "error") & ~table["repaired"].astype(bool)]
    text = plain(table) if len(table) else f"{len(tables)} stores are whole"
    emit({"command": "check", "stores": len(tables), "findings": records(table)}, text, json)
    if len(errors):
        say(f"{errors['store'].nunique()} of {len(tables)} stores have errors")
        raise typer.Exit(Code.SOME_FAILED)


def qc(stores: options.Stores, json: options.Json = False) -> None:
    """Say what is known of the quality of slides.

    It ends with 3 if a slide has an error that the reader found.

    For example:
      hisdiff-sd qc stores/SPA148.zarr
      hisdiff-sd qc stores --json
    """
    from hisdiff_sd import io

    paths = stores_of(stores, damaged=True)
    table = io.qc_table(paths)
    shown = plain(table[["slide", "level", "errors", "warnings", "notes"]])
    text = str(io.qc(paths[0])) if len(paths) == 1 else shown
    emit({"command": "qc", "slides": records(table)}, text, json)
    if (table["level"] == "error").any():
        raise typer.Exit(Code.SOME_FAILED)


def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store of a slide.", show_default=False)],
    out: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write, such as SPA148.h5ad.", show_default=False)
    ],
    key: Annotated[str, typer.Option(help="Table that is exported.")] = "hisdiff",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Write a table of a store as a plain h5ad file.

    It is for scanpy, squidpy and others that know no SpatialData. Where spots and genes were measured, the counts are
    the layer "counts".

    For example:
      hisdiff-sd export stores/SPA148.zarr SPA148.h5ad
      hisdiff-sd export stores/SPA148.zarr map.h5ad --key hisdiff_tiles_50um
    """
    from hisdiff_sd import io

    files.check_file(out, overwrite)
    table = io.to_anndata(io.open(store), key)
    write_with(out, table.write_h5ad)
    result = {"command": "export", "path": str(out), "spots": table.n_obs, "genes": table.n_vars}
    say(f"{table.n_obs} spots x {table.n_vars} genes, layers {', '.join(table.layers) or 'none'}")
    emit(result, str(out), json)
