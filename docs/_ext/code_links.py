"""Links from code to the API: `hd.pp.embed` in the text of any page, and types as the source writes them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.intersphinx import resolve_reference_any_inventory

import hisdiff_sd

_NAMED = re.compile(r"(?:hd|hisdiff_sd)((?:\.\w+)+)(?:\(\))?")
_NO_LINK = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature)
_ALIASES = {"np": "numpy", "pd": "pandas"}  # modules that the source calls by another name
_DEFINED = {  # where others define what they document elsewhere
    "anndata._core.anndata.AnnData": "anndata.AnnData",
    "geopandas.geodataframe.GeoDataFrame": "geopandas.GeoDataFrame",
    "pandas.core.frame.DataFrame": "pandas.DataFrame",
    "pandas.core.indexes.base.Index": "pandas.Index",
    "pandas.core.series.Series": "pandas.Series",
    "spatialdata._core.spatialdata.SpatialData": "spatialdata.SpatialData",
}


def link_names(app: Any, doctree: nodes.document) -> None:
    """Make a reference of every literal that is the name of something public."""
    for literal in list(doctree.findall(nodes.literal)):
        match = _NAMED.fullmatch(literal.astext())
        if not match or _inside(literal, _NO_LINK):
            continue
        target = "hisdiff_sd.settings" if match[1].startswith(".settings.") else f"hisdiff_sd{match[1]}"
        options = {"refdomain": "py", "reftype": "obj", "refdoc": app.env.docname, "refwarn": True, "refexplicit": True}
        reference = addnodes.pending_xref("", reftarget=target, **options)
        literal.replace_self(reference)
        reference += literal


def _inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def resolve_type(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find a type by the name that the source calls it, such as ``SpatialData`` or ``np.ndarray``."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    first, _, rest = target.partition(".")
    full = ".".join(filter(None, (_ALIASES.get(first) or imported().get(first, first), rest)))
    full = _DEFINED.get(full) or public().get(full, full)
    node["reftarget"], node["reftype"] = full, "obj"
    domain = env.get_domain("py")
    found = domain.resolve_xref(env, node.get("refdoc"), app.builder, "obj", full, node, content)
    return found or resolve_reference_any_inventory(env, False, node, content)


@cache
def imported() -> dict[str, str]:
    """What the modules of the package import from elsewhere or define, by short name."""
    out: dict[str, str] = {}
    root = Path(hisdiff_sd.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ".".join(("hisdiff_sd", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("hisdiff_sd"):
                out |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ClassDef):
                out[node.name] = f"{module}.{node.name}"
    return out


@cache
def public() -> dict[str, str]:
    """Public name of what is defined in a private module."""
    from api_pages import PARTS

    out = {}
    for part in ("", *PARTS):
        place = getattr(hisdiff_sd, part) if part in hisdiff_sd._NAMESPACES else hisdiff_sd
        if part == "tiles":
            import hisdiff_sd.tiles as place
        for name in place.__all__:
            thing = getattr(place, name)
            if hasattr(thing, "__qualname__"):
                out[f"{thing.__module__}.{thing.__qualname__}"] = f"{place.__name__}.{name}"
    return out


def setup(app: Any) -> dict[str, bool]:
    """Connect both."""
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", resolve_type)
    return {"parallel_read_safe": True}
