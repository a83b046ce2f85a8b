"""Which slides of HEST-1k are meant: by id, by dataset, by what the catalogue says of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from hisdiff_sd._errors import HisDiffError, check_one_of

# the four of the HisDiff paper -> how their titles in the catalogue begin
DATASETS = {
    "HER2ST": "Spatial deconvolution of HER2-positive breast cancer",
    "cSCC": "Single Cell and Spatial Analysis of Human Squamous Cell Carcinoma",
    "PRAD": "Spatially resolved clonal copy number alterations in benign and malignant tissue",
    "DLPFC": "spatialLIBD",
}
_ID = re.compile(r"[A-Za-z0-9_-]+")
_TEXTS = ("dataset_title", "subseries", "tissue", "disease_comment")  # columns of which a part is enough
_SHOWN = 12


def select(what: str | Iterable[str] | Mapping[str, str], catalogue: pd.DataFrame) -> list[str]:
    """Ids of the slides that are meant, in the order of the catalogue.

    Parameters
    ----------
    what
        Ids, names of `DATASETS` and conditions ``"column=value"``, of which any may hold; or a mapping from columns to
        values, of which all have to hold.
    catalogue
        The table of all slides, with a column ``id``.
    """
    if isinstance(what, Mapping):
        if not what:
            raise HisDiffError("no condition given; such as {'organ': 'Breast', 'st_technology': 'Visium'}")
        wanted = pd.Series(True, index=catalogue.index)
        for column, value in what.items():
            wanted &= _holds(str(column), str(value), catalogue)
        if not wanted.any():
            raise HisDiffError(f"no slide of the catalogue fulfils all of {dict(what)}")
    else:
        items = [what] if isinstance(what, str) else list(what)
        if not items:
            raise HisDiffError(
                f"nothing asked for; give ids, {', '.join(DATASETS)} or conditions such as 'organ=Breast'"
            )
        wanted = pd.Series(False, index=catalogue.index)
        for item in items:
            wanted |= _meant(str(item).strip(), catalogue)
    ids = catalogue.loc[wanted, "id"].tolist()
    odd = [name for name in ids if not _ID.fullmatch(name)]
    if odd:
        raise HisDiffError(f"the catalogue has an id {odd[0]!r}, which is no name of a file; do not trust it")
    return ids


def _meant(item: str, catalogue: pd.DataFrame) -> pd.Series:
    """Which rows an id, a dataset or a condition means."""
    column, equals, value = item.partition("=")
    if equals:
        return _holds(column.strip(), value.strip(), catalogue)
    datasets = {name.lower(): title for name, title in DATASETS.items()}
    if item.lower() in datasets:
        titles = catalogue["dataset_title"].fillna("").str.lower() if "dataset_title" in catalogue else None
        found = None if titles is None else titles.str.startswith(datasets[item.lower()].lower())
        if found is None or not found.any():
            raise HisDiffError(
                f"the catalogue has no dataset whose title begins with {datasets[item.lower()]!r} ({item}); look it up there "
                "and give 'dataset_title=...'"
            )
        return found
    if not _ID.fullmatch(item):
        raise HisDiffError(f"{item!r} is no id of a slide: those are letters and digits, such as 'SPA148'")
    found = catalogue["id"] == item
    if not found.any():
        near = difflib.get_close_matches(item, [*catalogue["id"], *DATASETS], n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise HisDiffError(
            f"HEST-1k has no slide {item!r}{hint}. Datasets by name: {', '.join(DATASETS)}; others by condition, such as "
            "'organ=Breast'"
        )
    return found


def _holds(column: str, value: str, catalogue: pd.DataFrame) -> pd.Series:
    """Where a column has a value, whatever its case."""
    check_one_of(column, list(catalogue.columns), "column of the catalogue")
    values = catalogue[column].fillna("").astype(str).str.strip()
    low = values.str.lower()
    found = low.str.contains(value.lower(), regex=False) if column in _TEXTS else low == value.lower()
    if not value or not found.any():
        there = list(dict.fromkeys(v for v in values if v))
        near = difflib.get_close_matches(value, there, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        more = " ..." if len(there) > _SHOWN else ""
        raise HisDiffError(f"no slide has {column} {value!r}; there are: {', '.join(there[:_SHOWN])}{more}.{hint}")
    return found
