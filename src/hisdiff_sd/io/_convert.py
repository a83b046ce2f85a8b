from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._cohort import amount, free_bytes, run_tasks
from hisdiff_sd._cohort_run import Task
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._codecs import check_compression
from hisdiff_sd.io._consolidated import attributes_of
from hisdiff_sd.io._link import linked, point_to, read_link
from hisdiff_sd.io._samples import OUTLINES, Sample, samples_of
from hisdiff_sd.io._store import write_checked
from hisdiff_sd.io._verify import verify

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

logger = logging.getLogger("hisdiff_sd")


def convert(
    src: str | Path,
    out: str | Path,
    *,
    samples: Iterable[str] | None = None,
    client: Client | None = None,
    compression: str = "zstd",
    link: bool = False,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Convert a cohort to stores ``<out>/<id>.zarr``, one slide each.

    What was written is compared with its source before it is moved in: names, sums of tables, blocks of pixels. A slide
    that fails does not stop the others; a call that was stopped is taken up by the same call, which skips what is there.

    Parameters
    ----------
    src
        Root of a HEST folder (``wsis/``, ``st/``, ``metadata/``); or a sample sheet, a CSV file with a row per slide and the
        columns ``id``; ``path`` (HEST root, or ``outs`` folder of Space Ranger) or ``image`` (bare slide) or both
        (Visium); and, if wanted, ``reader``, ``mpp``, ``patient``, ``species``, ``organ``, ``dataset``. Paths are relative
        to the sheet.
    out
        Folder of the stores; made if it is not there.
    samples
        Ids of the slides that are wanted; all by default.
    client
        A client of a dask cluster, as for `hd.map_stores`: each worker converts one slide at a time. By default the
        slides are converted one after the other, each with all cores.
    compression
        How the pixels are packed, see `hd.io.write`.
    link
        Leave the pixels in the image file (not PNG and JPEG): the store holds a small image and where the file is, and
        `hd.io.open` reads the pixels from there.
    overwrite
        Convert again what has been converted; tables that were added to those stores are lost.

    Returns
    -------
    A row per slide, in the order of `samples` or `src`, with the columns of `hd.map_stores`. ``status`` is ``"skipped"``
    for a store that is finished: made from the same files and the same description. One that was made from others is
    ``"failed"``, and left as it is.

    Raises
    ------
    MissingFileError
        If there is no `src`, or no slides in it.
    HisDiffError
        Before any work: if the sample sheet makes no sense, or a slide that is wanted is not in `src`.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> hd.io.convert(root, folder + "/stores").status.tolist()
    ['done']
    >>> hd.io.convert(root, folder + "/stores").status.tolist()
    ['skipped']
    """
    check_compression(compression)
    chosen = samples_of(src, samples)
    folder = Path(out).absolute()
    tasks = [_Conversion(str(Path(out) / f"{s.id}.zarr"), str(folder / f"{s.id}.zarr"), sample=s) for s in chosen]
    there = [not overwrite and task.target.exists() for task in tasks]
    images = [_bytes(sample.image_file) for sample in chosen]
    logger.info(
        "slides to convert: %d, stores there: %d; images of %s; %s free on the disk of %s",
        *(len(tasks) - sum(there), sum(there), amount(sum(n for n, t in zip(images, there, strict=True) if not t))),
        *(amount(free_bytes(tasks[0].target)), folder),
    )
    sizes = [math.nan if t else float(n) for n, t in zip(images, there, strict=True)]
    options = {"compression": compression, "link": link, "overwrite": overwrite}
    return run_tasks(convert_slide, list(tasks), options, client=client, sizes=sizes)


@dataclass(frozen=True)
class _Conversion(Task):
    """A slide to convert."""

    sample: Sample = field(kw_only=True)

    def open(self) -> tuple[Any, str]:
        """The task itself: the source is opened only where there is something to do."""
        return self, self.sample.id

    def kept_images(self) -> set[str]:
        """None: they are written."""
        return set()


def convert_slide(task: _Conversion, *, compression: str, link: bool, overwrite: bool) -> None:
    """Convert one slide, unless its store is finished."""
    if not overwrite and task.target.exists():
        _check_finished(task, link)
        return
    sdata = task.sample.read()
    if link:
        sdata = linked(sdata, task.sample.image_file, task.target)
    write_checked(sdata, task.target, overwrite, compression, check=partial(verify, source=sdata))


def _check_finished(task: _Conversion, link: bool) -> None:
    """Raise if a store is not that of the slide; renew its link if the image has moved."""
    store, sample = task.target, task.sample
    kept = f"give overwrite=True to convert slide {sample.id!r} anew, by which tables that were added to the store are lost"
    try:
        about = attributes_of(store)[keys.ATTRS]
        then = about["source"].get("fingerprint")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HisDiffError(f"{store} is there and is no store of a slide; move it away, or {kept}") from error
    if about.get("slide") != sample.id:
        raise HisDiffError(f"{store} holds slide {about.get('slide')!r}; move it away, or {kept}")
    if about.get("schema") != keys.SCHEMA_VERSION:
        raise HisDiffError(f"{store} was written by another version of hisdiff_sd; {kept}")
    now = sample.fingerprint()
    if then is None:  # by hd.io.write
        same = about["source"].get("image_bytes") == _bytes(sample.image_file)
        differs = [] if same else ["image"]
    else:
        came = OUTLINES in now and OUTLINES not in then  # others can have been drawn meanwhile, and used
        if came:
            logger.warning(
                "%s was made before outlines of its tissue were there; hd.pp.tissue(contours=) takes them", store
            )
        differs = [name for name in now if then.get(name) != now[name] and not (came and name == OUTLINES)]
    if differs:
        raise HisDiffError(
            f"{store} was made from another source ({', '.join(differs)} differ); it was left as it is: {kept}"
        )
    was = read_link(store)
    if bool(was) != link:
        logger.warning("%s holds %s pixels; %s", store, "no" if was else "its own", kept)
    elif was and Path(was["path"]) != sample.image_file.resolve():
        point_to(store, sample.image_file)


def _bytes(file: Path) -> int:
    """Size of a file, 0 if it is not there: what is wrong is said when its turn comes."""
    return os.path.getsize(file) if file.is_file() else 0
