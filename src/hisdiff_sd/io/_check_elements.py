"""Whether the elements of a store fit together, and their pixels can be decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, reason
from hisdiff_sd.io._check_files import Finding
from hisdiff_sd.io._consolidated import METADATA, attributes_of
from hisdiff_sd.io._image import levels_of
from hisdiff_sd.io._link import LINK, find_image
from hisdiff_sd.io._store import check_attrs, slide_attrs

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData
    from spatialdata import SpatialData

_CONVERT = "convert the slide again"


def record(store: Path) -> Iterator[Finding]:
    """A layout that this version does not read, or a record of the slide that cannot be used."""
    of_store = attributes_of(store)
    if of_store.get(keys.ATTRS) is None:
        yield Finding("note", METADATA, "the store was not made by hisdiff_sd: its pixel size is not known", "")
        return
    try:
        check_attrs(of_store)
    except HisDiffError as error:
        text, _, way_out = str(error).rpartition("; ")
        yield Finding("error", METADATA, text, way_out)


def link(store: Path) -> Iterator[Finding]:
    """Pixels that are in an image file, which is gone or is another one."""
    about = attributes_of(store).get(keys.ATTRS)
    images = store / "images"  # a companion has none
    if not isinstance(about, dict) or LINK not in about or (images / keys.HE).exists():
        return
    if not (images / keys.HE_SMALL).exists():
        return
    try:
        find_image(about[LINK], store, str(about.get("slide")))
    except HisDiffError as error:
        yield Finding(
            "error", f"images/{keys.HE}", str(error), "have the image where it was, or convert from where it is"
        )
    except (KeyError, TypeError, OSError) as error:
        yield Finding("error", METADATA, f"the link to the image of the slide is damaged ({reason(error)})", _CONVERT)


def rows(readable: dict[str, SpatialData]) -> Iterator[Finding]:
    """Rows of tables that annotate nothing."""
    for element, sdata in readable.items():
        kind, name = element.split("/")
        if kind != "tables":
            continue
        table = sdata.tables[name]
        about = table.uns.get("spatialdata_attrs", {})
        regions = about.get("region") or []
        for region in [regions] if isinstance(regions, str) else list(regions):
            if not any(e.partition("/")[2] == region for e in readable):
                yield Finding("warning", element, f"annotates {region!r}, which is not in the store", "make it again")
            elif f"shapes/{region}" in readable:
                astray = _astray(table, about, region, readable[f"shapes/{region}"])
                if astray:
                    problem = f"{len(astray)} rows annotate no shape of {region!r}, such as {astray[0]}"
                    yield Finding("error", element, problem, "make it again, with overwrite=True")


def _astray(table: AnnData, about: dict[str, Any], region: str, shapes: SpatialData) -> list[Any]:
    own = table.obs[table.obs[about["region_key"]] == region][about["instance_key"]]
    return list(own[~own.isin(shapes.shapes[region].index)])


def pyramid(readable: dict[str, SpatialData]) -> Iterator[Finding]:
    """Levels of the slide that do not lie on each other, or are smaller than the slide."""
    sdata = readable.get(f"images/{keys.HE}")
    if sdata is None or keys.ATTRS not in sdata.attrs:
        return
    shapes = [tuple(level.shape[-2:]) for level in levels_of(sdata.images[keys.HE])]
    for at, (height, width) in enumerate(shapes):
        if (height * 2**at, width * 2**at) != shapes[0]:
            problem = f"level {at} has {height} x {width} px, which is not 1/{2**at} of {shapes[0][0]} x {shapes[0][1]}"
            yield Finding("error", f"images/{keys.HE}", problem, _CONVERT)
    try:
        true_size = slide_attrs(sdata)["true_size"]
    except HisDiffError:  # said by `record`
        return
    if any(true > padded for true, padded in zip(true_size, shapes[0], strict=True)):
        problem = f"the slide has {true_size[0]} x {true_size[1]} px, the image only {shapes[0][0]} x {shapes[0][1]}"
        yield Finding("error", f"images/{keys.HE}", problem, _CONVERT)


def chunks(store: Path, readable: dict[str, SpatialData]) -> Iterator[Finding]:
    """Chunks of images that cannot be decoded."""
    import zarr

    for element in readable:
        if element.partition("/")[0] not in ("images", "labels"):
            continue
        for name, array in zarr.open_group(store / element, mode="r", use_consolidated=False).arrays():
            bad = list(_bad_chunks(array))
            if bad:
                problem = f"level {name}: {len(bad)} chunks cannot be decoded, such as {bad[0]}"
                yield Finding("error", element, problem, _CONVERT)


def _bad_chunks(array: zarr.Array) -> Iterator[str]:
    side = array.shards or array.chunks
    for at in itertools.product(*(range(-(-n // step)) for n, step in zip(array.shape, side, strict=True))):
        try:
            array[tuple(slice(i * step, (i + 1) * step) for i, step in zip(at, side, strict=True))]
        except Exception as error:  # noqa: BLE001  # whatever a codec says of damaged bytes
            yield f"{array.metadata.encode_chunk_key(at)} ({reason(error)[:120]})"
