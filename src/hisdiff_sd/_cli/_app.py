"""What all commands share: how they end. Errors and Ctrl-C become one line and an exit code in one place."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from hisdiff_sd._cli._words import in_words_of_the_command
from hisdiff_sd._errors import HisDiffError


class Code(IntEnum):
    """How a command ends; 2, a command line that cannot be understood, is the parser's own."""

    DONE = 0
    INPUT = 1
    SOME_FAILED = 3
    INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands of the app."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; the package's errors are one line, without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Stopped. Run the same command again to go on.", err=True)
            raise typer.Exit(Code.INTERRUPTED) from None
        except HisDiffError as error:
            typer.secho(f"Error: {in_words_of_the_command(str(error))}", fg="red", err=True)
            raise typer.Exit(Code.INPUT) from None
