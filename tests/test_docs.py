"""The site: what its pages quote is in the source, their links lead somewhere, and it builds without a warning."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "api").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(), re.MULTILINE)


def messages() -> str:
    """All texts of the source, one after the other, those of one message joined as they are printed."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.fixture(scope="module")
def said() -> str:
    return messages()


def test_there_are_quoted_errors() -> None:
    assert len(QUOTED) > 10


@pytest.mark.parametrize("text", QUOTED)
def test_an_error_of_the_faq_is_one_of_the_package(text: str, said: str) -> None:
    assert text in said


def anchors(page: Path) -> set[str]:
    """What links into a page may name: its headings, as GitHub and MyST write them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_repository_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http", "#")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


class Page(HTMLParser):
    """Where the links of a built page lead, and what others may link to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.places |= {named.get("id") or "", named.get("name") or ""}
        self.links |= {target for key in ("href", "src") if (target := named.get(key))}


def broken_links(site: Path) -> list[str]:
    """Links of built pages that lead to no file of the site, or to no place in it."""
    own = (
        path for path in site.rglob("*.html") if site / "_static" not in path.parents
    )  # there the theme has templates
    pages = {path.resolve(): Page(path) for path in own}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, place = unquote(link).partition("#")
            if re.match(r"\w+:|//", link) or target.startswith("?"):
                continue
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            known = pages[file].places if file in pages else {""}
            if not file.exists() or (place and place not in known):
                broken.append(f"{path.relative_to(site.resolve())} -> {link}")
    return sorted(broken)


def loaded_from_elsewhere(site: Path) -> set[str]:
    """Scripts, styles and pictures of built pages that a reader without a network would lack."""
    tags = re.compile(r"<(?:script|img|link rel=\"stylesheet\")[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)")
    return {address for path in site.rglob("*.html") for address in tags.findall(path.read_text())}


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there"></a><a href="b.html#gone"></a><a href="c.html"></a>')
    (tmp_path / "b.html").write_text('<p id="there"><a href="https://example.org">out</a><img src="none.png">')
    assert broken_links(tmp_path) == ["a.html -> b.html#gone", "a.html -> c.html", "b.html -> none.png"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx_book_theme") is None, reason="needs pip install '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    quick = ["-q", "--keep-going", "-d", str(tmp_path / "trees")]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-n", *quick, str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "html" / "api" / "generated" / "hisdiff_sd.tl.train.html").exists()
    assert broken_links(tmp_path / "html") == []
    assert loaded_from_elsewhere(tmp_path / "html") == set()
