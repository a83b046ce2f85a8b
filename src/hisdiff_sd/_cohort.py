from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._cohort_run import Row, Task, logger, run_task
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._progress import progress
from hisdiff_sd._remote import is_url

if TYPE_CHECKING:
    from distributed import Client

_GIB = 2**30


def map_stores(
    function: Callable[..., Any],
    paths: Iterable[str | Path],
    *,
    client: Client | None = None,
    companions: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Apply a function to many stores, here or on a dask cluster; a slide that fails does not stop the others.

    Parameters
    ----------
    function
        A function of a slide that writes its result into the slide's store, such as `hd.pp.embed` or `hd.tl.predict`;
        what it returns is dropped.
    paths
        Paths of stores, one slide each; or URLs, with `companions`.
    client
        A client of a dask cluster, such as ``Client(LocalCluster(n_workers=2))``: every worker opens its stores by path
        and works on one at a time. Where workers share a machine with several GPUs, each is given one of them as
        ``device=``. By default the stores are worked on one after the other in this process.
    companions
        A folder for companions (see `hd.io.open`) of stores that cannot or shall not be written to, one for each store
        and under its name.
    options
        Passed on to `function`.

    Returns
    -------
    A row per store, in the order of `paths`:

    =========== ====================================================================================================
    store       the path
    slide       id of the slide, empty if the store could not be opened
    status      ``"done"``; ``"skipped"`` if nothing was to do, so that the store was not changed; or ``"failed"``
    seconds     to open the store and run the function
    peak_mib    highest resident memory of the process so far, in MiB
    bytes_added by which the store (or its companion) has grown on disk
    error       type and message in one line, empty if there was none
    warnings    what was warned of meanwhile, separated by ``|``
    =========== ====================================================================================================

    Raises
    ------
    HisDiffError
        Before any work: if there is no path, a store is named twice, options do not fit the function, or something
        cannot be sent to the workers.

    Notes
    -----
    How many stores there are is logged (``logging.getLogger("hisdiff_sd")``, level INFO) before the work starts; after
    the first store, what time, memory and disk the others will need, by the size of their images. Ctrl-C takes back
    the stores that no worker has begun; what is done stays done and is skipped by the next call.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder, slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.write(hd.io.hest(root, "S1"), folder + "/stores/S1.zarr")
    >>> hd.map_stores(hd.pp.embed, [folder + "/stores/S1.zarr"], encoder="morphology").status.tolist()
    ['done']
    """
    tasks = _tasks(paths, companions)
    _check_call(function, options)
    sizes = [image_pixels(task.path) for task in tasks]
    logger.info(
        "%d store%s with %.2f gigapixels; %s free on the disk of %s",
        *(
            len(tasks),
            "s" * (len(tasks) > 1),
            sum(sizes) / 1e9,
            amount(free_bytes(tasks[0].target)),
            tasks[0].target.parent,
        ),
    )
    return run_tasks(function, tasks, options, client=client, sizes=sizes)


def run_tasks(
    function: Callable[..., Any],
    tasks: list[Task],
    options: dict[str, Any],
    *,
    client: Client | None,
    sizes: Sequence[float],
) -> pd.DataFrame:
    """Do the tasks, here or on a cluster, and report a row for each, in their order.

    Parameters
    ----------
    function
        Called on what a task opens.
    tasks
        What is to be done, a target each.
    options
        Passed on to the function.
    client
        A dask client, or None.
    sizes
        How large the images of the tasks are, by which it is estimated what is left to do: 0 where that is not known, NaN
        where nothing is left.
    """
    _check_client(client)
    rows: dict[int, Row] = {}
    said = False
    with (
        progress(f"{getattr(function, '__name__', 'function')} of {len(tasks)} stores", len(tasks)) as advance,
        closing(_each(function, tasks, options, client)) as finished,
    ):
        for at, row in finished:
            rows[at] = row
            advance(1)
            if row.status == "failed":
                logger.warning("%s failed: %s", row.store, row.error)
            elif row.status == "done" and not said and not math.isnan(sizes[at]):
                said = True
                left = [size for i, size in enumerate(sizes) if i not in rows and not math.isnan(size)]
                _say_what_is_left(row, sizes[at], left, _at_once(client), free_bytes(tasks[at].target))
    columns = [field.name for field in dataclasses.fields(Row)]
    return pd.DataFrame([dataclasses.asdict(rows[i]) for i in range(len(tasks))], columns=columns)


def _each(
    function: Callable[..., Any], tasks: list[Task], options: dict[str, Any], client: Client | None
) -> Generator[tuple[int, Row]]:
    """Place and row of every store, as they are finished."""
    if client is None:
        yield from ((at, run_task(function, task, options)) for at, task in enumerate(tasks))
    else:
        from hisdiff_sd._cohort_cluster import run_on_cluster

        yield from run_on_cluster(client, function, tasks, options)


def _tasks(paths: Iterable[str | Path], companions: str | Path | None) -> list[Task]:
    """What is to be done; refuse what would be done twice."""
    if isinstance(paths, str | Path):
        raise HisDiffError(f"{str(paths)!r} is one path; a list of paths of stores is needed")
    given = list(paths)
    wrong = [path for path in given if not isinstance(path, str | Path)]
    if wrong:
        raise HisDiffError(
            f"a {type(wrong[0]).__name__} is no path; stores are named by path, so that workers can open them themselves"
        )
    if not given:
        raise HisDiffError("no stores given; a list of paths of stores is needed")
    folder = None if companions is None else Path(companions).absolute()
    remote = [path for path in given if is_url(path)]
    if remote and folder is None:
        raise HisDiffError(f"nothing can be written to {remote[0]}; give companions=, a folder for the results")
    tasks = [
        Task(
            str(path),
            str(path) if is_url(path) else os.path.abspath(path),
            None if folder is None else str(folder / Path(path).name),
        )
        for path in given
    ]
    first: dict[str, str] = {}
    for task in tasks:
        real = os.path.realpath(task.target)
        if real in first:
            what = "is given twice" if folder is None else f"and {first[real]} would share the companion {real}"
            raise HisDiffError(f"{task.store} {what}; give every store once, of one name each")
        first[real] = task.store
    return tasks


def _check_call(function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that would fail on every store, and whatever is open: workers open things themselves."""
    import zarr
    from spatialdata import SpatialData

    try:
        signature(function).bind(None, **options)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise HisDiffError(f"{name} cannot be called with a slide and these options: {error}") from error
    for name, value in options.items():
        if isinstance(value, SpatialData | zarr.Group | zarr.Array):
            raise HisDiffError(f"option {name!r} is an open {type(value).__name__}; give its path")


def _check_client(client: Client | None) -> None:
    import distributed

    if client is not None and (not isinstance(client, distributed.Client) or client.asynchronous):
        raise HisDiffError(
            f"client= must be a dask.distributed Client that is not asynchronous, not {type(client).__name__}; "
            "make one with Client(cluster)"
        )


def image_pixels(store: str | Path) -> int:
    """Pixels of the images of a store at full resolution, from its metadata; 0 where they cannot be read."""
    largest: dict[str, int] = {}
    try:
        metadata = json.loads((Path(store) / "zarr.json").read_text())
        about = metadata["attributes"].get(keys.ATTRS, {})
        if "link" in about:  # its pixels lie elsewhere
            return math.prod(about["true_size"])
        for key, node in metadata["consolidated_metadata"]["metadata"].items():
            kind, _, rest = key.partition("/")
            if kind == "images" and node["node_type"] == "array":
                name = rest.partition("/")[0]
                largest[name] = max(largest.get(name, 0), math.prod(node["shape"][-2:]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return sum(largest.values())


def _say_what_is_left(first: Row, size: float, left: list[float], at_once: int, free: int | None) -> None:
    """Log what the other stores will need, from what the first one did and the sizes of their images."""
    if not left:
        return
    times = sum(left) / size if size and all(left) else len(left)
    disk = int(first.bytes_added * times)
    at_once = min(at_once, len(left))
    one_or_many = "store" if len(left) == 1 else f"{len(left)} stores"
    logger.info(
        "%s took %.0f s, %.1f GiB of memory and %s of disk; the other %s will take about %s, %.1f GiB of memory (%d at a "
        "time) and %s of disk",
        *(first.store, first.seconds, first.peak_mib / 1024, amount(first.bytes_added), one_or_many),
        *(_duration(first.seconds * times / at_once), at_once * first.peak_mib / 1024, at_once, amount(disk)),
    )
    if free is not None and disk > free:
        logger.warning(
            "the disk has %s free, and about %s will be needed: stop and make room", *map(amount, (free, disk))
        )


def _at_once(client: Client | None) -> int:
    if client is None:
        return 1
    from hisdiff_sd._cohort_cluster import n_workers

    return n_workers(client)


def free_bytes(target: Path) -> int | None:
    """Free space of the disk a store lies on, or will lie on."""
    there = next((path for path in target.parents if path.exists()), None)
    return None if there is None else shutil.disk_usage(there).free


def amount(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "an unknown amount is"
    return f"{n_bytes / _GIB:.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
