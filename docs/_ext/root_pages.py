"""Brings files of the root of the repository into the site: changelog, how to contribute, licence, notebooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "LICENSE": "licence.md",
}
_FOLDER = "project"
_LINK = re.compile(r"\]\(([^):#]+)\)")


def page_of(name: str, text: str) -> str:
    """The text as a page, with links to other files of the root led to their pages."""
    if name == "LICENSE":
        return f"# Licence\n\n```text\n{text.strip()}\n```\n"
    return _LINK.sub(lambda m: f"]({_place(m[1])})", text)


def _place(target: str) -> str:
    if target in PAGES:
        return PAGES[target]
    return target.replace("docs/", "../", 1) if target.startswith("docs/") else f"../{target}"


def copy(app: Any, config: Any) -> None:
    """Write the pages and copy the notebooks, if they have changed."""
    docs = Path(app.srcdir)
    root = docs.parent
    (docs / _FOLDER).mkdir(exist_ok=True)
    for name, page in PAGES.items():
        target, text = docs / _FOLDER / page, page_of(name, (root / name).read_text())
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
    (docs / "tutorials").mkdir(exist_ok=True)
    notebooks = sorted((root / "tutorials").glob("*.ipynb"))
    for stale in {p.name for p in (docs / "tutorials").iterdir()} - {p.name for p in notebooks}:
        (docs / "tutorials" / stale).unlink()
    for notebook in notebooks:
        target = docs / "tutorials" / notebook.name
        text = notebook.read_text().replace("](../docs/", "](../")  # the site is one folder less deep
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def lead_to_copies(app: Any, docname: str, source: list[str]) -> None:
    """Links of a page to notebooks, as a clone has them, lead to the copies that the site has."""
    if "/" not in docname:  # pages that lie in docs/ itself
        source[0] = source[0].replace("](../tutorials/", "](tutorials/")


def setup(app: Any) -> dict[str, bool]:
    """Before Sphinx looks for pages, and when it reads one."""
    app.connect("config-inited", copy)
    app.connect("source-read", lead_to_copies)
    return {"parallel_read_safe": True}
