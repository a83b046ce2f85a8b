"""Names of other packages that our pages link to, kept in `docs/_inventories` so that the site builds without a network.

Each file lists only the names that are linked, as lines of text (an inventory of Sphinx, version 1). They were written by hand.
`python docs/_ext/inventories.py` compares them with the full inventories on the sites and corrects what has moved.
"""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "_inventories"
SITES = {
    "python": "https://docs.python.org/3",
    "anndata": "https://anndata.readthedocs.io/en/stable",
    "distributed": "https://distributed.dask.org/en/stable",
    "geopandas": "https://geopandas.org/en/stable",
    "matplotlib": "https://matplotlib.org/stable",
    "numpy": "https://numpy.org/doc/stable",
    "pandas": "https://pandas.pydata.org/docs",
    "spatialdata": "https://spatialdata.scverse.org/en/stable",
    "torch": "https://docs.pytorch.org/docs/stable",
}


def mapping() -> dict[str, tuple[str, str]]:
    """What `intersphinx_mapping` wants."""
    return {name: (url, str(FOLDER / f"{name}.txt")) for name, url in SITES.items()}


def refresh(name: str, site: str) -> list[str]:
    """Take the kept names from the inventory of the site; returns those that it no longer has, which stay as they are."""
    from sphinx.util.inventory import InventoryFile

    path = FOLDER / f"{name}.txt"
    head, kept = path.read_text().splitlines()[:3], path.read_text().splitlines()[3:]
    with urllib.request.urlopen(f"{site}/objects.inv", timeout=60) as answer:
        there = InventoryFile.loads(answer.read(), uri="").data
    lines, gone = [], []
    for line in kept:
        thing = line.split()[0]
        found = [(kind, names[thing].uri) for kind, names in there.items() if kind.startswith("py:") and thing in names]
        if found:
            kind, place = found[0]
            line = f"{thing} {kind.removeprefix('py:')} {place.partition('#')[0].lstrip('/')}"
        else:
            gone.append(thing)
        lines.append(line)
    path.write_text("\n".join([*head, *lines]) + "\n")
    return gone


if __name__ == "__main__":
    missing = {name: refresh(name, site) for name, site in SITES.items()}
    sys.exit(
        "\n".join(f"{name}: not on the site any more: {', '.join(gone)}" for name, gone in missing.items() if gone)
    )
