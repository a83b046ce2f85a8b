from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


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

    Parameters
    ----------
    src
        Root of a HEST folder, or a sample sheet: a CSV or TSV file with a row per slide.
    out
        Folder of the stores.
    samples
        Ids of the slides that are wanted; all by default.
    client
        A client of a dask cluster, as for `hd.map_stores`.
    compression
        How the pixels are packed: ``"zstd"``, ``"blosc"`` or ``"none"``.
    link
        Leave the pixels where they are.
    overwrite
        Convert again what has been converted.

    Returns
    -------
    A row per slide, as `hd.map_stores` returns them.
    """
    raise NotImplementedError
