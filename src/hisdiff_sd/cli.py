"""The command line, thin over the Python API: the commands are in `hisdiff_sd._cli`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Annotated

import typer

from hisdiff_sd._cli import _compare, _data, _model, _prepare, _run
from hisdiff_sd._cli._app import Commands
from hisdiff_sd._cli._output import Messages
from hisdiff_sd._version import __version__

app = typer.Typer(
    name="hisdiff-sd",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: errors are lines, and help can be searched
)


def _with_examples(command: Callable[..., None]) -> str:
    """The docstring of a command, with its examples as lines: the parser joins lines unless it sees this character."""
    return (command.__doc__ or "").replace("    For example:", "    \b\n    For example:")


for command in (
    _data.download,
    _data.samples,
    _data.convert,
    _prepare.embed,
    _prepare.genes,
    _model.train,
    _model.predict,
    _model.evaluate,
    _compare.cross_validate,
    _model.report,
    _data.export,
    _data.qc,
    _data.check,
    _run.run,
    _run.train_published,
    _run.demo,
):
    app.command(help=_with_examples(command))(command)


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
    """Spatial gene expression from H&E slides with HisDiff, on SpatialData.

    Results go to stdout, as JSON with --json; messages and progress to stderr. Exit codes: 0 done, 1 an error of the
    input, 2 a wrong command line, 3 some slides failed, 130 interrupted (run the same command again to go on).

    For research use only.
    """


def main() -> None:
    """Run the command line."""
    # threads that wait for each other by spinning crawl on a machine that does other work too; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    messages = Messages()
    messages.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("hisdiff_sd")
    logger.handlers = [messages]  # not the root's: libraries that say what they have to say would say it twice
    logger.setLevel(logging.INFO)
    app()


if __name__ == "__main__":
    main()
