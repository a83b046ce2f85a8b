"""The command line, thin over the Python API."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._version import __version__

app = typer.Typer(
    name="hisdiff-sd",
    help="Spatial gene expression from H&E slides with HisDiff, on SpatialData.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class EncoderName(StrEnum):
    """Encoders of the demo."""

    morphology = "morphology"
    uni = "uni"


class TargetName(StrEnum):
    """Targets of the demo."""

    log2 = "log2"
    cp10k = "cp10k"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Spatial gene expression from H&E slides with HisDiff, on SpatialData."""


@app.command()
def demo(
    hest: Annotated[
        Path | None, typer.Option(help="A folder of slides in HEST layout; by default synthetic slides are made.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Id of the slide that is held out; the last one by default.")] = None,
    encoder: Annotated[
        EncoderName, typer.Option(help="Tile encoder; 'uni' needs accepted terms on the Hugging Face hub.")
    ] = EncoderName.morphology,
    weights: Annotated[Path | None, typer.Option(help="Local weight file of the encoder.")] = None,
    target: Annotated[
        TargetName, typer.Option(help="log2(count + 1), or log(1 + counts per 10,000).")
    ] = TargetName.log2,
    out: Annotated[Path, typer.Option(help="Folder for stores, model, figures and report.")] = Path("hisdiff_sd_demo"),
    seed: Annotated[int, typer.Option(help="Of training and sampling.")] = 0,
) -> None:
    """Convert slides, train on all but one, predict and judge that one, draw it, write a report.

    What is done already in --out is not done again.

    Examples: `hisdiff-sd demo`; `hisdiff-sd demo --hest hest_data --test SPA148 --out results`.
    """
    from hisdiff_sd._demo import run_demo

    try:
        report = run_demo(
            out,
            hest=hest,
            test=test,
            encoder=encoder.value,
            weights=weights,
            target=target.value,
            seed=seed,
            say=typer.echo,
        )
    except KeyboardInterrupt:
        # caught here because typer keeps it from `main`
        typer.secho("Stopped. Run the same command again to go on.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"\nReport: {report}")


@app.command()
def report(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store of a slide with a prediction.")],
    key: Annotated[
        str | None, typer.Option(help="Table of the prediction; 'hisdiff', or the only one, by default.")
    ] = None,
    genes: Annotated[str | None, typer.Option(help="Genes whose maps are shown, such as ERBB2,EPCAM.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write; <store>_report.html here by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
) -> None:
    """Write what a model says of a slide, and how far to believe it, as one HTML page that opens offline.

    Example: `hisdiff-sd report stores/SPA148.zarr --genes ERBB2,EPCAM --out SPA148.html`.
    """
    from hisdiff_sd import pl

    asked = None if genes is None else [gene.strip() for gene in genes.split(",") if gene.strip()]
    path = Path(f"{store.stem}_report.html") if out is None else out
    typer.echo(f"Report: {pl.report(store, path, key=key, genes=asked, overwrite=overwrite)}")


def main() -> None:
    """Run the command line; errors of the package are one line, without a traceback."""
    # threads that wait for each other by spinning crawl on a machine that does other work too; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("hisdiff_sd").setLevel(logging.INFO)
    try:
        app()
    except HisDiffError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
