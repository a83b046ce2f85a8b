"""Who made a table, and how: flat scalars in ``uns["hisdiff_sd"]``, compared before a table is used or replaced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import OtherProvenanceError
from hisdiff_sd._version import __version__

if TYPE_CHECKING:
    from anndata import AnnData


def provenance(**values: Any) -> dict[str, Any]:
    """A record of how a table is made; nested values become JSON text, None the empty string."""
    return {k: _flat(v) for k, v in values.items()}


def set_provenance(table: AnnData, record: dict[str, Any]) -> None:
    """Write a record into a table, with the version of the package."""
    table.uns[keys.ATTRS] = {**record, "version": __version__}


def get_provenance(table: AnnData) -> dict[str, Any]:
    """The record of a table, empty if it has none."""
    return dict(table.uns.get(keys.ATTRS, {}))


def failed_tiles(table: AnnData) -> int:
    """Number of tiles that could not be read, whose spots an embedding or a prediction therefore lacks."""
    return int(get_provenance(table).get("failed_tiles", 0))


def check_provenance(table: AnnData, record: dict[str, Any], name: str) -> bool:
    """True if `table` was made as `record` says; else raise an error that names what differs."""
    found = get_provenance(table)
    differs = {k: (found.get(k), v) for k, v in record.items() if found.get(k) != v}
    if not differs:
        return True
    listed = "; ".join(
        f"{k}: {there} there, {asked} asked for" for k, (there, asked) in ((k, _shown(*v)) for k, v in differs.items())
    )
    raise OtherProvenanceError(
        f"table {name!r} was made in another way ({listed}); give overwrite=True to replace it, or key_added= for another name"
    )


def _shown(*values: Any) -> tuple[str, ...]:
    """Values as an error says them: numbers with so many digits as tell them apart."""
    short = tuple(f"{v:.6g}" if isinstance(v, float) else repr(v) for v in values)
    return short if len(set(short)) == len(values) else tuple(map(repr, values))


def _flat(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    return value
