"""Parts of the HTML reports: one style, and pages that need nothing but themselves."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path

from hisdiff_sd._errors import HisDiffError

RESEARCH_USE = "For research use only; not for diagnosis."

# colours of text on its background have a contrast of 4.5 or more (WCAG AA), in the light and in the dark
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1c20; --soft: #54565e; --page: #fff; --card: #f4f4f7; --line: #d5d6dc;
  --go: #0b4f8a; --go-back: #e3effb; --no: #8a3a00; --no-back: #fdeee0; --unknown: #4b4d55; --unknown-back: #ececf0 }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --soft: #b3b5bd; --page: #17181c; --card: #222329; --line: #3d3f47;
  --go: #a9d2fb; --go-back: #16344f; --no: #ffc896; --no-back: #4a2a10; --unknown: #c9cad1; --unknown-back: #34363e } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; color: var(--ink);
  background: var(--page); overflow-wrap: break-word }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.35rem; margin: 2.4rem 0 .6rem }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .5rem }
.note { color: var(--soft); font-size: .92rem; max-width: 52rem }
.warning { border-left: .3rem solid; padding: .4rem .8rem; background: var(--no-back); color: var(--no); font-weight: 600 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th:first-child, td:first-child { text-align: left }
thead th { vertical-align: bottom }
tbody th { font-weight: inherit; white-space: nowrap }
.facts th { font-weight: 600; white-space: nowrap }
.facts td { text-align: left; overflow-wrap: anywhere }
.scroll { overflow-x: auto; max-width: 100% }
.scroll:focus-visible { outline: 2px solid var(--go) }
.chart img { min-width: 44rem }
tr.model { font-weight: 600; background: var(--card) }
figure { margin: 0 }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .2rem }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .9rem }
@media (max-width: 36rem) {
  .facts th, .facts td { display: block; border: 0; padding: .1rem 0; text-align: left }
  .facts td { padding-bottom: .5rem }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt }
  h2, h3 { break-after: avoid }
  figure, tr { break-inside: avoid }
  .scroll { overflow: visible; max-height: none }
}
"""
# a browser that obeys this line cannot load anything from elsewhere, whatever stands in the page
_OFFLINE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, body: str, style: str = "") -> str:
    """A whole page; `body` is HTML, `title` is text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_OFFLINE}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def facts(values: Mapping[str, str]) -> str:
    """Names and values, both text, as a table of two columns."""
    rows = (f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in values.items())
    return f"<table class='facts'><tbody>{''.join(rows)}</tbody></table>"


def picture(content: bytes, alt: str, caption: str = "", kind: str = "png") -> str:
    """An image that the page carries itself."""
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><img alt='{escape(alt)}' src='{data}'>{below}</figure>"


def scrolled(table: str, label: str, kind: str = "") -> str:
    """A wide table that is scrolled by itself, also with the keyboard; `kind` is a class of the style."""
    return f"<div class='scroll {kind}' tabindex='0' role='region' aria-label='{escape(label)}'>{table}</div>"


def percent(share: float) -> str:
    """A share of a whole, never rounded to none or all of it.

    >>> percent(0.5), percent(0.999), percent(1.0)
    ('50%', '>99%', '100%')
    """
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{100 * share:.0f}%"


def check_page(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that a page cannot be written to, before any work is put into it."""
    if path.is_dir():
        raise HisDiffError(f"{path} is a folder; give the name of a file, such as {path / 'report.html'}")
    if path.exists() and not overwrite:
        raise HisDiffError(f"{path} exists already; give overwrite=True to replace it, or another name")
    if not path.parent.is_dir():
        raise HisDiffError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise HisDiffError(f"cannot write {path}: {path.parent} may not be written to; choose another folder")
