"""A prediction as the plots read it: values in the order of the shapes they belong to, and what of them to believe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import check_tiles, rows_of
from hisdiff_sd._errors import HisDiffError, check_one_of, check_slide_object
from hisdiff_sd._open import slide_name
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd._targets import UNITS
from hisdiff_sd.pl._marks import Marks, marks_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

WITH_PREDICTION = "a slide (SpatialData) with a prediction"  # what plots need


@dataclass(frozen=True)
class Prediction:
    """A table of `hd.tl.predict` beside the shapes it annotates.

    Attributes
    ----------
    name, table, record
        Name of the table, the table, and its provenance.
    shapes_key, marks
        Name of the shapes, and those that have a prediction, n of them.
    rows
        (n,) the table's row of each.
    """

    name: str
    table: AnnData
    record: dict[str, Any]
    shapes_key: str
    marks: Marks
    rows: np.ndarray

    @property
    def units(self) -> str:
        """Units of the values."""
        return UNITS[self.record["target"]]

    @property
    def ood(self) -> np.ndarray | None:
        """(n,) how far from the training slides, 1 at the border of what is trusted; None if that is unknown."""
        return None if "ood" not in self.table.obs else self.table.obs["ood"].to_numpy(np.float64)[self.rows]

    @property
    def trusted(self) -> np.ndarray | None:
        """(n,) bool; None if that is unknown."""
        return None if "trusted" not in self.table.obs else self.table.obs["trusted"].to_numpy(bool)[self.rows]

    @property
    def believed(self) -> np.ndarray:
        """(n,) bool: what scales and summaries are made of; all, where none is trusted or that is unknown."""
        trusted = self.trusted
        return trusted if trusted is not None and trusted.any() else np.ones(len(self.rows), bool)

    def values(self, gene: str, layer: str | None = None) -> np.ndarray:
        """(n,) float32 mean of a gene, or a layer of it."""
        found = self.table.X if layer is None else self.table.layers[layer]
        return np.asarray(found[:, self.table.var_names.get_loc(gene)], np.float32)[self.rows]


def find_prediction(sdata: SpatialData, key: str | None) -> str:
    """The name of a prediction: `key`, else ``"hisdiff"``, else the only one there is."""
    check_slide_object(sdata, WITH_PREDICTION)
    if key is not None:
        check_one_of(key, sdata.tables, "table")
        if get_provenance(sdata.tables[key]).get("kind") != "prediction":
            raise HisDiffError(f"table {key!r} is no prediction of hisdiff_sd; run hd.tl.predict")
        return key
    found = [name for name, table in sdata.tables.items() if get_provenance(table).get("kind") == "prediction"]
    if not found:
        listed = ", ".join(map(repr, sdata.tables)) or "none"
        raise HisDiffError(f"slide {slide_name(sdata)!r} has no prediction (tables here: {listed}); run hd.tl.predict")
    if keys.PREDICTION in found or len(found) == 1:
        return keys.PREDICTION if keys.PREDICTION in found else found[0]
    raise HisDiffError(
        f"slide {slide_name(sdata)!r} has several predictions; give key= one of {', '.join(map(repr, found))}"
    )


def read_prediction(sdata: SpatialData, key: str | None = None, shapes_key: str | None = None) -> Prediction:
    """The prediction `key` at the shapes `shapes_key`, by default those it annotates."""
    name = find_prediction(sdata, key)
    table = sdata.tables[name]
    where = shapes_key or str(table.uns["spatialdata_attrs"]["region"])
    check_tiles(table, slide_shapes(sdata, where), name)
    marks = marks_of(sdata, where)
    rows = rows_of(table, marks.index, name)
    if not (rows >= 0).any():
        raise HisDiffError(
            f"prediction {name!r} is of none of the shapes {where!r}; leave out shapes_key= or give its own"
        )
    return Prediction(name, table, get_provenance(table), where, marks.where(rows >= 0), rows[rows >= 0])


@dataclass(frozen=True)
class Verdict:
    """How a gene did on left-out training slides; None where that is unknown."""

    reliable: bool | None
    r: float | None
    q: float | None

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return {True: "reliable", False: "not reliable", None: "reliability unknown"}[self.reliable]

    def __str__(self) -> str:
        return self.word if self.r is None else f"{self.word} (r = {self.r:.2f} on left-out slides)"


def verdicts_of(table: AnnData) -> dict[str, Verdict]:
    """The verdict on every gene of a prediction."""
    return {
        str(gene): Verdict(*(_known(row.get(c)) for c in ("reliable", "loso_pcc", "loso_q")))
        for gene, row in table.var.to_dict("index").items()
    }


def _known(value: Any) -> Any:
    """None for what is missing, in any of the ways in which a table says that."""
    return None if value is None or pd.isna(value) else value
