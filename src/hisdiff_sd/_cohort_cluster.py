"""The stores of a cohort on the workers of a dask cluster: one store at a time on each, and one GPU for each."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import redirect_stderr, suppress
from inspect import signature
from typing import TYPE_CHECKING, Any

from hisdiff_sd._cohort_run import Row, Task, logger, one_line, run_task
from hisdiff_sd._errors import HisDiffError

if TYPE_CHECKING:
    from distributed import Client, Future

_POLL_SECONDS = 1.0
_one_at_a_time = threading.Lock()  # of this process: a worker may have several threads, torch wants the process


def run_on_cluster(
    client: Client, function: Callable[..., Any], tasks: list[Task], options: dict[str, Any]
) -> Generator[tuple[int, Row]]:
    """Place and row of every store, in the order in which they are finished.

    A worker gets its next store when it has finished one. Were they handed out all at once, a worker that dies would
    take the stores that wait for it along: the scheduler blames a death on everything the worker had been given.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")  # a model: it is sent once, not per store
        job = client.submit(_itself, _pickled(function, options), pure=False)
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Future, tuple[int, str]] = {}
    try:
        while waiting or running:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            ranks = local_ranks(workers)
            for address in _idle(workers, {address for _, address in running.values()}, len(workers) - len(running)):
                if waiting:
                    at, task = waiting.pop()
                    future = client.submit(
                        _on_worker, job, task, ranks, workers=[address], allow_other_workers=True, pure=False
                    )
                    running[future] = at, address
            for future in _finished(client, running):
                at, _ = running.pop(future)
                yield at, _row(future, tasks[at])
    finally:
        if running:
            client.cancel(list(running))


def n_workers(client: Client) -> int:
    """Number of workers now, 1 if none has come yet."""
    return max(1, len(client.nthreads()))


def local_ranks(workers: Mapping[str, Mapping[str, Any]]) -> dict[Any, int]:
    """Number of each worker, by name, among those of its host; a worker that is started anew keeps its name."""
    ranks: dict[Any, int] = {}
    next_on: dict[str, int] = {}
    for worker in sorted(workers.values(), key=lambda w: (len(str(w["name"])), str(w["name"]))):
        ranks[worker["name"]] = next_on.get(worker["host"], 0)
        next_on[worker["host"]] = ranks[worker["name"]] + 1
    return ranks


def choose_device(rank: int, count: int, visible: str) -> str:
    """Device of the worker that is number `rank` on its host and sees `count` CUDA devices.

    `visible` is its ``CUDA_VISIBLE_DEVICES``. Some clusters give every worker the same devices in another order; the
    same number in each would then be another device, so they are counted in one order.
    """
    listed = [name.strip() for name in visible.split(",")]
    if len(set(listed)) != count:
        return f"cuda:{rank % count}"
    return f"cuda:{listed.index(sorted(listed)[rank % count])}"


def _itself(job: bytes) -> bytes:
    return job


def _pickled(function: Callable[..., Any], options: dict[str, Any]) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        return bytes(cloudpickle.dumps((function, options)))
    except Exception as error:  # objects refuse in many ways
        raise HisDiffError(
            f"the function or an option cannot be sent to workers ({one_line(error)}); give paths, and open what they name "
            "in the function"
        ) from error


def _idle(workers: Mapping[str, Any], busy: set[str], most: int) -> list[str]:
    """Workers that can be given a store; `most`, as a store whose worker died is on another one."""
    return [address for address in workers if address not in busy][: max(0, most)]


def _finished(client: Client, running: Mapping[Future, Any]) -> list[Future]:
    """Those that are done, after waiting a while for the first; workers may come while we wait."""
    from distributed import CancelledError, wait

    if not running:
        time.sleep(_POLL_SECONDS)
        return []
    # wait asks the default client, which this one need not be
    with client.as_current(), suppress(TimeoutError, CancelledError):
        wait(list(running), timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
    return [future for future in running if future.done()]


def _row(future: Future, task: Task) -> Row:
    """What a worker reports, or why it cannot."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status != "error":
        return Row(task.store, error=f"the cluster gave this store up ({future.status}); call again")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Row(
            task.store,
            error="KilledWorker: the workers that had this store died, most likely because they ran out of memory; give "
            "workers more memory (memory_limit= of LocalCluster, memory= of dask-jobqueue) or start fewer on a machine; "
            "their logs say more",
        )
    return Row(task.store, error=one_line(error))


def _on_worker(job: bytes, task: Task, ranks: dict[Any, int]) -> Row:
    """Work on one store in a worker."""
    import cloudpickle  # type: ignore[import-untyped]
    import torch
    from distributed import get_worker

    from hisdiff_sd._device import threads_kept

    worker = get_worker()
    with _one_at_a_time, redirect_stderr(_NoTerminal()), threads_kept():
        torch.set_num_threads(worker.state.nthreads)
        try:
            function, options = cloudpickle.loads(job)
        except Exception as error:  # noqa: BLE001  # whatever an import on the worker raises
            return Row(task.store, error=f"{one_line(error)} (the worker lacks what the function needs)")
        if "device" not in options and "device" in signature(function).parameters and worker.name in ranks:
            count = torch.cuda.device_count()
            if count > 1:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
                options["device"] = choose_device(ranks[worker.name], count, visible)
                logger.info("%s on %s", task.store, options["device"])
        return run_task(function, task, options)


class _NoTerminal(io.TextIOBase):
    """The error stream of a worker without its terminal: progress bars of workers would overwrite ours."""

    def write(self, text: str) -> int:
        return sys.__stderr__.write(text) if sys.__stderr__ else len(text)

    def isatty(self) -> bool:
        return False
