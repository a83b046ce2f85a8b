from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd._cohort import amount, free_bytes
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._progress import progress
from hisdiff_sd.io import _zenodo
from hisdiff_sd.io._catalogue import select
from hisdiff_sd.io._hest_hub import HestHub

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("hisdiff_sd")

ZENODO = "zenodo"
_AT_ONCE = 4


def download(
    what: str | Iterable[str] | Mapping[str, str],
    out: str | Path,
    *,
    token: str | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Fetch slides of HEST-1k, or the data of the HisDiff paper, into a folder.

    How much it will be is logged before (``logging.getLogger("hisdiff_sd")``, level INFO), and refused if the disk is too
    small. A call that was stopped is taken up by the same call: files that are there are kept, one that was cut off is
    fetched anew.

    Parameters
    ----------
    what
        Slides of HEST-1k, one or more of: an id (``"SPA148"``); a dataset of the HisDiff paper (``"HER2ST"``, ``"cSCC"``,
        ``"PRAD"``, ``"DLPFC"``), which is looked up in the catalogue by its title; a condition on a column of the
        catalogue (``"organ=Breast"``, ``"oncotree_code=IDC"``; a part is enough of ``dataset_title``, ``subseries``,
        ``tissue``). Or a mapping of conditions that all have to hold (``{"organ": "Breast", "st_technology": "Visium"}``).
        Or ``"zenodo"``: what the paper published there.
    out
        The folder; slides of HEST-1k are laid out as `hd.io.hest` and `hd.io.convert` read them.
    token
        Token of the Hugging Face hub, on which HEST-1k is for those who accept its terms (CC BY-NC-SA 4.0). By default
        that of ``hf auth login`` or of the environment variable ``HF_TOKEN``.
    dry_run
        Fetch nothing (but the catalogue, into the cache of the hub); say what would be fetched.

    Returns
    -------
    A row per file: ``file`` (relative to `out`), ``sample``, ``bytes``, ``status`` (``"there"``, ``"fetched"`` or, after a
    dry run, ``"wanted"``).

    Raises
    ------
    HisDiffError
        If nothing is called so, terms are not accepted, there is no network, or the disk is too small; each says what to do.

    Notes
    -----
    Of a slide everything is fetched but the folders ``patches``, ``patches_vis``, ``pixel_size_vis`` and ``spatial_plots``:
    nothing here needs them (``patches`` are compared with the spots where they are there).
    HEST-1k: Jaume et al., NeurIPS 2024 (arXiv:2406.16192). Zenodo: doi:10.5281/zenodo.17709073.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> hd.io.download(["SPA148", "SPA149"], "hest_data", dry_run=True)  # doctest: +SKIP
    >>> hd.io.download({"organ": "Breast", "st_technology": "Visium"}, "hest_data")  # doctest: +SKIP
    """
    folder = Path(out)
    fetch: Callable[[str], object]
    if isinstance(what, str) and what.strip().lower() == ZENODO:
        listed = _zenodo.record_files().assign(sample="")
        known = listed.set_index("file")[["checksum", "url"]].to_dict("index")
        # a file that is there is summed up, and fetched again if it is not whole
        fetch = lambda name: _zenodo.fetch(name, folder=folder, **known[name])  # noqa: E731
    else:
        hub = HestHub(token)
        listed = hub.files(select(what, hub.catalogue(None if dry_run else folder)))
        fetch = partial(hub.fetch, folder=folder)
    files = listed[["file", "sample", "bytes"]].reset_index(drop=True)
    there = [_size(folder / name) == size for name, size in zip(files["file"], files["bytes"], strict=True)]
    files["status"] = ["there" if here else "wanted" for here in there]
    _say(files, folder, dry_run)
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch_all(files["file"].tolist(), fetch)
        files["status"] = ["there" if here else "fetched" for here in there]
    return files


def _say(files: pd.DataFrame, folder: Path, dry_run: bool) -> None:
    """Log what will be fetched; refuse it if it does not fit on the disk."""
    wanted = int(files.loc[files["status"] == "wanted", "bytes"].sum())
    free = free_bytes(folder.absolute() / "file")
    logger.info(
        "%d files of %d slides, %s; %s to fetch; %s free on the disk of %s",
        *(
            len(files),
            files["sample"].nunique(),
            amount(int(files["bytes"].sum())),
            amount(wanted),
            amount(free),
            folder,
        ),
    )
    if not dry_run and free is not None and wanted > free:
        raise HisDiffError(
            f"{amount(wanted)} do not fit on the disk of {folder}, which has {amount(free)} free; make room, or ask for less"
        )


def _fetch_all(names: list[str], fetch: Callable[[str], object]) -> None:
    """Fetch files, some at a time; the first that fails stops those that have not begun."""
    with progress(f"fetching {len(names)} files", len(names)) as advance, ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = [pool.submit(fetch, name) for name in names]
        try:
            for future in as_completed(futures):
                future.result()
                advance(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
