from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def download(
    what: str | Iterable[str] | Mapping[str, str],
    out: str | Path,
    *,
    token: str | None = None,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Fetch slides of HEST-1k, or the data of the HisDiff paper, into a folder in the HEST layout.

    Parameters
    ----------
    what
        One or more of: an id (``"SPA148"``), a dataset of the paper (``"HER2ST"``, ``"cSCC"``, ``"PRAD"``, ``"DLPFC"``),
        a condition on the catalogue (``"organ=Breast"``), ``"zenodo"``; or a mapping of conditions that all hold.
    out
        The folder.
    token
        Token of the Hugging Face hub.
    dry_run
        Say what would be fetched, and fetch nothing.

    Returns
    -------
    A row per file: ``file``, ``sample``, ``bytes``, ``status`` (``"wanted"``, ``"there"``, ``"fetched"``).
    """
    raise NotImplementedError
