"""Formulas as MathML, which browsers draw by themselves: MathJax would be fetched from elsewhere by every page."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def markup(node: nodes.Element) -> str:
    """The MathML of a formula."""
    try:
        return tex2mathml(node.astext())
    except ValueError as e:  # else the page would show TeX
        raise ExtensionError(f"{node.source}:{node.line}: cannot be written as MathML: {node.astext()}: {e}") from e


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(markup(node))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, in a box that scrolls if the screen is narrower."""
    formula = markup(node).replace("<math ", '<math display="block" ', 1)
    self.body.append(self.starttag(node, "div", CLASS="math") + formula + "</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """A renderer that conf.py names."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
