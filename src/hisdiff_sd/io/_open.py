from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._remote import is_url, read_remote
from hisdiff_sd.io._image import levels_of
from hisdiff_sd.io._store import write

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

logger = logging.getLogger("hisdiff_sd")

_RECORD = "hisdiff_sd_companion"  # key of the attributes of a companion
_SOURCE = "source"  # where the store lay, for whoever opens a companion
_FINGERPRINT = "fingerprint"  # what must be true of the store, now and later
_IDENTITY = ("slide", "mpp", "true_size", "source")


def open(store: str | Path, companion: str | Path | None = None) -> SpatialData:
    """Open the store of a slide; with a companion, one that cannot or shall not be written to.

    A companion is a small local store: copies of the shapes, the tables that are added, and the fingerprint of the
    store it belongs to. No pixel is copied, and nothing is written into `store` or beside it.

    Parameters
    ----------
    store
        A zarr store, such as ``hd.io.write`` makes; or the URL of one, such as ``"https://..."`` or ``"s3://..."``, whose
        pixels are fetched when they are used. Of a companion, the store it belongs to is opened with it.
    companion
        Where what is added to the slide shall be kept, such as ``"mine/SPA148.zarr"``; made if it is not there.

    Returns
    -------
    The slide: image (lazily), shapes and tables of `store`, and those of the companion, which take precedence. Its
    ``path`` is the companion, so `hd.pp.embed`, `hd.tl.predict` and the like write there. A URL without a companion gives
    a slide that is kept in memory only.

    Raises
    ------
    MissingFileError
        If there is no store.
    HisDiffError
        If the store or the companion cannot be read, or the companion belongs to another slide or to an earlier version
        of this one.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.write(hd.io.hest(root, "S1"), folder + "/shared/S1.zarr")
    >>> sdata = hd.io.open(folder + "/shared/S1.zarr", companion=folder + "/mine/S1.zarr")
    >>> hd.pp.embed(sdata, "morphology")  # written into mine/S1.zarr
    """
    from spatialdata import SpatialData

    from hisdiff_sd._open import open_slide, open_without_pixels  # which need hisdiff_sd.io themselves

    origin = str(store) if is_url(store) else str(Path(store).absolute())
    source = read_remote(origin) if is_url(store) else open_slide(store)
    if companion is None:
        return source
    place = Path(companion).absolute()
    if place.resolve() == Path(origin).resolve():
        raise HisDiffError(f"{companion} is the store itself; choose another path for its companion")
    if not place.exists():
        record = {_SOURCE: origin, _FINGERPRINT: fingerprint(source)}
        write(SpatialData(shapes=dict(source.shapes), attrs={**source.attrs, _RECORD: record}), place)
    added = open_without_pixels(place)
    _check(added, source, store, companion)
    return _merged(source, added, place)


def with_source(sdata: SpatialData, place: Path) -> SpatialData:
    """A slide that was read at `place`; if that is a companion, with the store it belongs to, unless that is gone."""
    record = sdata.attrs.get(_RECORD)
    if not isinstance(record, dict) or _SOURCE not in record:
        return sdata
    origin = str(record[_SOURCE])
    if is_url(origin) or Path(origin).exists():
        return open(origin, companion=place)
    logger.warning(
        "%s is the companion of %s, which is gone: only what lies in the companion itself is there, without image and counts. "
        "If the store has moved, open both: hd.io.open(store, companion=%r)",
        place,
        origin,
        str(place),
    )
    return sdata


def _merged(source: SpatialData, added: SpatialData, place: Path) -> SpatialData:
    """One object of both stores that is backed by the companion."""
    from spatialdata import SpatialData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tables that annotate nothing, as in the source
        merged = SpatialData(
            images={**source.images, **added.images},
            labels=dict(source.labels),
            points=dict(source.points),
            shapes={**source.shapes, **added.shapes},
            tables={**source.tables, **added.tables},
            attrs=source.attrs,
        )
    merged.path = place
    return merged


def fingerprint(sdata: SpatialData) -> dict[str, Any]:
    """What tells a slide from another: flat, as JSON keeps it.

    Tables, grids and what else is made of a slide are left out, so that those who own the store can go on working with
    it: of the slides of `hd.io` the image and the spots count, of others everything.
    """
    about = sdata.attrs.get(keys.ATTRS, {})
    found = {key: about[key] for key in _IDENTITY if key in about}
    ours = keys.ATTRS in sdata.attrs
    for name, image in sdata.images.items():
        if ours and name != keys.HE:
            continue
        found[f"image {name}"] = list(levels_of(image)[0].shape)
    found |= {f"shapes {n}": _digest(frame) for n, frame in sdata.shapes.items() if not ours or n == keys.SPOTS}
    return dict(json.loads(json.dumps(found)))


def _digest(shapes: GeoDataFrame) -> str:
    """Number and place of shapes and a hash of their names: tables are joined to them by name."""
    names = hashlib.sha256("\n".join(map(str, shapes.index)).encode()).hexdigest()
    return f"{len(shapes)} in {[float(edge) for edge in shapes.total_bounds]}, names {names[:16]}"


def _check(added: SpatialData, source: SpatialData, store: str | Path, companion: str | Path) -> None:
    """Refuse what is no companion, or that of another store; elements that the store has gained are no matter."""
    record = added.attrs.get(_RECORD)
    if not isinstance(record, dict) or _FINGERPRINT not in record:
        raise HisDiffError(
            f"{companion} is there and is no companion of a store; choose another path, or open it by itself"
        )
    now, then = fingerprint(source), record[_FINGERPRINT]
    differs = [name for name, value in then.items() if now.get(name) != value]
    if differs:
        raise HisDiffError(
            f"{companion} is the companion of another slide, or of another version of this one: it was made for slide "
            f"{then.get('slide')!r} in {record.get(_SOURCE)}; {store} differs in {', '.join(differs)}. Choose another path, "
            "or delete the companion to have it made anew"
        )
