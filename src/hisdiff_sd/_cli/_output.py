"""Results on stdout, as text or JSON; everything else that is said on stderr."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import typer

from hisdiff_sd._cli._app import Code
from hisdiff_sd._cli._words import in_words_of_the_command

if TYPE_CHECKING:
    import pandas as pd


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    typer.echo(text, err=True)


class Messages(logging.Handler):
    """What the package says meanwhile, as lines on stderr in the words of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say a message."""
        say(in_words_of_the_command(self.format(record)))


def emit(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result: one JSON object, or its text."""
    typer.echo(json.dumps(result, indent=1, default=str) if as_json else text)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as JSON has them; NaN becomes null."""
    return list(json.loads(table.reset_index(drop=True).to_json(orient="records", double_precision=15)))


def plain(table: pd.DataFrame) -> str:
    """A table as text."""
    return "nothing" if table.empty else str(table.round(3).to_string(index=False))


def emit_stores(command: str, table: pd.DataFrame, as_json: bool) -> None:
    """Print what became of every store, and end the command with 3 if some failed."""
    failed = table[table["status"] == "failed"]
    shown = [c for c in ("status", "slide", "store", "seconds") if c in table]
    emit({"command": command, "stores": records(table)}, plain(table[shown]), as_json)
    if len(failed):
        say(f"{len(failed)} of {len(table)} slides failed:")
        for error, stores in failed.groupby("error", sort=False)["store"]:
            say(f"  {', '.join(stores)}: {in_words_of_the_command(error)}")
        say("Mend what is said, and run the same command again: what is done is skipped.")
        raise typer.Exit(Code.SOME_FAILED)
