"""The consolidated metadata of a store: what a reader takes to be in it.

zarr would list whatever lies in the folder, and so halves that other programs left; here an element is listed when it is
complete, by one write of one file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hisdiff_sd._errors import reason

METADATA = "zarr.json"
GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
_INLINE = {"kind": "inline", "must_understand": False}

Nodes = dict[str, dict[str, Any]]


def listed(store: Path) -> Nodes | None:
    """Metadata of all groups and arrays that the root of a store names; None if they are not consolidated."""
    return _listed(_read(store))


def attributes_of(store: Path) -> dict[str, Any]:
    """Attributes of the root of a store."""
    found = _read(store).get("attributes")
    return found if isinstance(found, dict) else {}


def unreadable(store: Path) -> str | None:
    """Why the metadata of the root cannot be read, None if they can."""
    try:
        _listed(_read(store))
    except (OSError, ValueError, TypeError, AttributeError) as error:  # no file, no JSON, no object
        return reason(error)
    return None


def on_disk(folder: Path, key: str) -> Nodes:
    """Metadata of the element in a folder, as they stand in the root of a store where the element is called `key`."""
    nodes = {}
    for file in sorted(folder.rglob(METADATA)):
        place = file.parent.relative_to(folder).parts
        nodes["/".join((*filter(None, [key]), *place))] = _node(_read(file.parent))
    return nodes


def elements(nodes: Iterable[str]) -> set[str]:
    """Names such as ``"tables/hisdiff"`` among the keys of nodes."""
    return {key for key in nodes if key.count("/") == 1}


def rewritten(store: Path, add: Mapping[str, Path] | None = None, drop: Iterable[str] = ()) -> str:
    """The metadata file of the root with elements, which lie in folders, in place of those of their names, without others."""
    add = add or {}
    metadata = _read(store)
    nodes = _listed(metadata)
    if nodes is None:
        nodes = on_disk(store, "")
        del nodes[""]
    gone = (*drop, *add)
    nodes = {key: node for key, node in nodes.items() if not any(key == e or key.startswith(f"{e}/") for e in gone)}
    for element, folder in add.items():
        kind = element.partition("/")[0]
        nodes[kind] = _node(_read(store / kind) if (store / kind / METADATA).is_file() else GROUP)
        nodes |= on_disk(folder, element)
    # zarr takes children of one parent to stand together
    nodes = dict(sorted(nodes.items(), key=lambda item: (item[0].count("/"), item[0])))
    metadata["consolidated_metadata"] = {**_INLINE, "metadata": nodes}
    return json.dumps(metadata, indent=1)


def put(store: Path, text: str) -> None:
    """Replace the metadata file of the root in one step."""
    building = store / f"zarr.{os.getpid()}.partial"  # as zarr itself calls it
    try:
        building.write_text(text)
        building.replace(store / METADATA)
    except OSError:
        building.unlink(missing_ok=True)
        raise


def half_written(store: Path) -> list[Path]:
    """Metadata files of the root and of the kinds of elements that were being written when a process was killed."""
    return [*store.glob("zarr.*.partial"), *store.glob("*/zarr.*.partial")]


def _read(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / METADATA).read_text())
    if not isinstance(found, dict) or "node_type" not in found:
        raise ValueError(f"{folder / METADATA} holds no metadata of zarr")
    return found


def _node(metadata: dict[str, Any]) -> dict[str, Any]:
    if metadata["node_type"] == "array":
        return metadata
    return {**metadata, "consolidated_metadata": {**_INLINE, "metadata": {}}}


def _listed(metadata: dict[str, Any]) -> Nodes | None:
    return (metadata.get("consolidated_metadata") or {}).get("metadata")
