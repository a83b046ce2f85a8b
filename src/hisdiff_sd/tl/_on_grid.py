"""A table on a grid of tiles: which it is, what is wanted of it, and where its rows lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._data import check_tiles, rows_of
from hisdiff_sd._errors import HisDiffError, check_gene, check_one_of, check_slide_object
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._shapes import GRID, Shapes, slide_shapes

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True)
class OnGrid:
    """Some genes of a table on a grid.

    Attributes
    ----------
    key, region
        Names of the table, and of the tiles it annotates.
    table
        The table.
    shapes
        The tiles.
    rows
        Row of the table for every tile, -1 where there is none.
    genes
        Those that are wanted, each once.
    layer
        That is wanted in place of X.
    """

    key: str
    region: str
    table: AnnData
    shapes: Shapes
    rows: np.ndarray
    genes: list[str]
    layer: str | None

    @property
    def is_prediction(self) -> bool:
        """Whether the table holds a prediction, none of whose values is below 0."""
        return bool(get_provenance(self.table).get("kind") == "prediction")

    def values(self) -> np.ndarray:
        """float32 (n_rows, n_genes), in the order of the table."""
        values = self.table.X if self.layer is None else self.table.layers[self.layer]
        chosen = values[:, self.table.var_names.get_indexer(self.genes)]
        return np.asarray(chosen.todense() if hasattr(chosen, "todense") else chosen, np.float32)


def on_grid(sdata: SpatialData, key: str | None, genes: Sequence[str] | None, layer: str | None) -> OnGrid:
    """The table `key`, else the only prediction on a grid; a gene, a layer or tiles that do not fit are refused."""
    check_slide_object(sdata)
    key = _table_on_a_grid(sdata, key)
    table, region = sdata.tables[key], _region(sdata, key)
    names = _genes(table, genes, key)
    if layer is not None:
        check_one_of(layer, [name for name in table.layers if name is not None], f"layer in {key!r}")
    shapes = slide_shapes(sdata, region)
    check_tiles(table, shapes, key)
    return OnGrid(key, region, table, shapes, rows_of(table, shapes.index, key), names, layer)


def _genes(table: AnnData, genes: Sequence[str] | None, key: str) -> list[str]:
    """The genes that are wanted, each once."""
    if genes is None:
        return list(table.var_names)
    if isinstance(genes, str) or not len(genes):
        raise HisDiffError(f"genes={genes!r} is no list of genes; give some of {key!r}, or leave it out for all")
    for gene in genes:
        check_gene(gene, table.var_names, f"gene in {key!r}")
    return list(dict.fromkeys(genes))


def _region(sdata: SpatialData, key: str) -> str:
    """The element that a table annotates; empty if there is none, or several."""
    region = sdata.tables[key].uns.get("spatialdata_attrs", {}).get("region", "")
    return region if isinstance(region, str) else ""


def _table_on_a_grid(sdata: SpatialData, key: str | None) -> str:
    """Name of the table that is wanted: `key`, else the only prediction on a grid."""
    regions = {name: _region(sdata, name) for name in sdata.tables}
    on_grids = [name for name, region in regions.items() if region in sdata.shapes and GRID in sdata.shapes[region]]
    if key is not None:
        return check_one_of(key, on_grids, "table on a grid of tiles")
    found = [name for name in on_grids if get_provenance(sdata.tables[name]).get("kind") == "prediction"]
    if len(found) == 1:
        return found[0]
    if found:
        raise HisDiffError(f"there are several predictions on grids; give key=, one of {', '.join(map(repr, found))}")
    raise HisDiffError("there is no prediction on a grid; make one with hd.tl.predict(sdata, model, spacing_um=...)")
