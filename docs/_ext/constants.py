"""What is said of a constant: the comment `#:` above it, in whichever module it stands; autodoc would print that of its type."""

from __future__ import annotations

import sys
from typing import Any

from sphinx.pycode import ModuleAnalyzer


def comment_of(name: str) -> list[str]:
    """The comment above a constant that is known under a public name, such as ``hisdiff_sd.nn.SAMPLERS``."""
    part, _, short = name.rpartition(".")
    for module in [m for m in sys.modules if m.startswith(part)]:
        comments = ModuleAnalyzer.for_module(module).find_attr_docs()
        if ("", short) in comments:
            return list(comments["", short])
    return []


def describe(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the docstring of a plain value."""
    if isinstance(obj, str | int | tuple | dict):
        lines[:] = comment_of(name)


def setup(app: Any) -> dict[str, bool]:
    """Before napoleon reads it."""
    app.connect("autodoc-process-docstring", describe, priority=100)
    return {"parallel_read_safe": True}
