"""Formulas as MathML, which browsers draw by themselves: MathJax would be fetched from elsewhere by every page."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

MATHML = "{http://www.w3.org/1998/Math/MathML}"
_OF_HTML = re.compile(r"&(?!lt;|gt;|amp;)\w+;")  # characters by names that XML does not know

ElementTree.register_namespace("", MATHML[1:-1])


def markup(node: nodes.Element, **attributes: str) -> str:
    """The MathML of a formula."""
    try:
        formula = ElementTree.fromstring(_OF_HTML.sub(lambda name: unescape(name[0]), tex2mathml(node.astext())))
    except (ValueError, SyntaxError) as e:  # else the page would show TeX
        raise ExtensionError(f"{node.source}:{node.line}: cannot be written as MathML: {node.astext()}: {e}") from e
    mend(formula)
    formula.attrib.update(attributes)
    return ElementTree.tostring(formula, encoding="unicode")


def mend(formula: ElementTree.Element) -> None:
    """Put an index beside a letter with a bar, not below it, and bars around a term close to it, of one height."""
    for both in list(formula.iter(MATHML + "munderover")):
        letter, index, accent = both
        if accent.get("stretchy") == "false":
            both.tag = MATHML + "msub"
            both[:] = [ElementTree.Element(MATHML + "mover"), index]
            both[0].extend([letter, accent])
    for over in formula.iter(MATHML + "mover"):
        if over[1].text == "\u02c9":
            over[1].text = "\u00af"  # the bar of formulas; that of texts is hardly seen
    fences = {
        term for row in formula.iter(MATHML + "mrow") for term in (row[0], row[-1]) if "class" not in row[0].attrib
    }
    for operator in formula.iter(MATHML + "mo"):
        if operator.text in ("|", "\u2016") and operator not in fences:  # those of \left and \right grow with the term
            operator.attrib.update(stretchy="false", lspace="0", rspace="0")


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(markup(node))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, in a box that scrolls if the screen is narrower."""
    self.body.append(self.starttag(node, "div", CLASS="formula") + markup(node, display="block") + "</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """A renderer that conf.py names."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
