"""Stores on the web or in a bucket: shapes and tables are fetched, pixels stay there until they are used."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hisdiff_sd._errors import HisDiffError, MissingFileError

if TYPE_CHECKING:
    import zarr
    from spatialdata import SpatialData

logger = logging.getLogger("hisdiff_sd")

_LAZY = ("images", "labels")
_EAGER = ("shapes", "tables")
_THREADS = 16  # requests at once: a table is some dozens of small files


def is_url(path: str | Path) -> bool:
    """Whether a store lies elsewhere, named by a URL of fsspec."""
    return isinstance(path, str) and "://" in path


def read_remote(url: str) -> SpatialData:
    """Read a SpatialData store at a URL; spatialdata itself reads stores on disk only.

    A hollow copy of the store, all of it but the pixels, is made on disk for a moment and read by spatialdata; then the
    images are pointed to where their pixels are.
    """
    import spatialdata

    url = url.rstrip("/")
    try:
        with TemporaryDirectory() as hollow:
            _copy_hollow(url, Path(hollow))
            sdata = spatialdata.read_zarr(hollow, selection=(*_LAZY, *_EAGER))
        root = _group(url)
        for kind in _LAZY:
            for name, image in getattr(sdata, kind).items():
                _point_to(image, root[f"{kind}/{name}"])
    except FileNotFoundError as error:
        raise MissingFileError(f"no store at {url}: {error}") from error
    except HisDiffError:
        raise
    except ImportError as error:  # fsspec knows the protocol and lacks its package, which it names
        raise HisDiffError(f"{url} needs a package that is not installed: {error}") from error
    except Exception as error:  # of the file system, of the network, of zarr
        raise HisDiffError(f"{url} cannot be read as a SpatialData store ({type(error).__name__}: {error})") from error
    sdata.path = None  # the hollow copy is gone
    return sdata


def _group(url: str) -> zarr.Group:
    import zarr
    from zarr.storage import FsspecStore

    return zarr.open_group(FsspecStore.from_url(url, read_only=True), mode="r")


def _copy_hollow(url: str, folder: Path) -> None:
    """Copy all of a store but the pixels and the points."""
    import fsspec  # type: ignore[import-untyped]

    filesystem, base = fsspec.core.url_to_fs(url)
    metadata = filesystem.cat_file(f"{base}/zarr.json")
    nodes = _nodes(json.loads(metadata), url)
    _put(folder / "zarr.json", metadata)
    for key, node in nodes.items():
        own = {k: v for k, v in node.items() if k != "consolidated_metadata"}  # in there it is empty
        _put(folder / key / "zarr.json", json.dumps(own).encode())
    root = _group(url)
    wanted = [name for key, node in nodes.items() for name in _files(key, node, root)]

    def fetch(name: str) -> None:
        try:
            _put(folder / name, filesystem.cat_file(f"{base}/{name}"))
        except FileNotFoundError:
            if name.endswith(".parquet"):
                raise
            # zarr leaves out chunks that hold nothing but the fill value

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fetch, wanted))


def _nodes(metadata: dict[str, Any], url: str) -> dict[str, dict[str, Any]]:
    """Metadata of all groups and arrays; folders on the web cannot be listed, so they must stand in those of the root."""
    listed = (metadata.get("consolidated_metadata") or {}).get("metadata")
    if not listed:
        raise HisDiffError(
            f"{url} has no consolidated metadata, so what is in it cannot be known; write it with hd.io.write, or run "
            "zarr.consolidate_metadata on it"
        )
    astray = [key for key in listed if not {"", ".", ".."}.isdisjoint(key.split("/"))]
    if astray:
        raise HisDiffError(f"{url} names an element {astray[0]!r}, which would lie outside the store; do not trust it")
    points = sorted({key.split("/")[1] for key in listed if key.startswith("points/")})
    if points:
        logger.warning("%s: points are not read from a URL: %s left out", url, ", ".join(points))
    return {key: node for key, node in listed.items() if key.partition("/")[0] in (*_LAZY, *_EAGER)}


def _files(key: str, node: dict[str, Any], root: zarr.Group) -> Iterable[str]:
    """Files of a node that are fetched."""
    kind, *names = key.split("/")
    if kind == "shapes" and len(names) == 1:
        yield f"{key}/shapes.parquet"
    elif kind in _EAGER and node["node_type"] == "array":
        array = root[key]
        side = array.shards or array.chunks
        grid = [range(-(-length // step)) for length, step in zip(array.shape, side, strict=True)]
        yield from (f"{key}/{array.metadata.encode_chunk_key(at)}" for at in itertools.product(*grid))


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _point_to(image: Any, group: zarr.Group) -> None:
    """Give every level of an image the array that holds its pixels."""
    import dask.array as da

    about = group.attrs.asdict()
    datasets = about.get("ome", about)["multiscales"][0]["datasets"]
    levels = [next(iter(n.values())) for n in image.children.values()] if hasattr(image, "children") else [image]
    for level, dataset in zip(levels, datasets, strict=True):
        level.data = da.from_zarr(group[dataset["path"]])
