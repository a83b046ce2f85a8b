"""Writes the pages of the API from `__all__`, so that a new public name has a page without anybody thinking of it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import hisdiff_sd as hd

PARTS = [*hd._NAMESPACES, "tiles"]  # tiles is no namespace of `hd`, but can be used by itself
FOLDER = "api"
SETTINGS = """
.. py:data:: settings
   :type: hisdiff_sd._settings.Settings

   The settings of this session.

.. autoclass:: hisdiff_sd._settings.Settings
"""


def page(title: str, module: str, about: str, members: list[str]) -> str:
    """A page that lists names of a module, each with a page of its own."""
    listed = "\n".join(f"   {name}" for name in members)
    head = f"{title}\n{'=' * len(title)}\n\n.. py:module:: {module}\n\n{about}\n\n.. currentmodule:: hisdiff_sd\n\n"
    return f"{head}.. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n{listed}\n"


def pages() -> dict[str, str]:
    """Names and texts of all pages."""
    own = [name for name in hd.__all__ if name not in (*hd._NAMESPACES, "settings") and not name.startswith("_")]
    out = {"hisdiff_sd": page("hd", "hisdiff_sd", "What stands in the package itself.", own) + SETTINGS}
    for part in PARTS:
        module = importlib.import_module(f"hisdiff_sd.{part}")
        title = f"hd.{part}" if part in hd._NAMESPACES else f"hisdiff_sd.{part}"
        out[part] = page(
            title, module.__name__, inspect.getdoc(module) or "", [f"{part}.{name}" for name in module.__all__]
        )
    return out


def write_pages(app: Any, config: Any) -> None:
    """Write what has changed, so that a second build is quick."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    wanted = {folder / f"{name}.rst": text for name, text in pages().items()}
    names = re.findall(r"^   ([\w.]+)$", "\n".join(wanted.values()), re.MULTILINE)
    stale = {*folder.glob("*.rst")} - {*wanted}
    stale |= {*folder.glob("generated/*.rst")} - {folder / "generated" / f"hisdiff_sd.{name}.rst" for name in names}
    for path in stale:
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Before Sphinx looks for pages: autosummary then writes one for each name that these list."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True}
