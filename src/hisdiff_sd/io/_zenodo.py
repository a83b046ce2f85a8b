"""The data that the HisDiff paper published on Zenodo."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd

from hisdiff_sd._errors import HisDiffError

RECORD = "17709073"
API = "https://zenodo.org/api/records"
_SECONDS = 60
_ARCHIVES = {".zip": "Unzip", ".tar": "Untar", ".tgz": "Untar", ".gz": "Untar"}


def record_files() -> pd.DataFrame:
    """A row per file of the record: ``file``, ``bytes``, ``checksum`` (``"md5:..."``), ``url``."""
    url = f"{API}/{RECORD}"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            listed = json.load(answer)["files"]
        rows = [(str(f["key"]), int(f["size"]), str(f["checksum"]), str(f["links"]["self"])) for f in listed]
    except urllib.error.HTTPError as error:
        raise HisDiffError(f"{url} answered {error.code} ({error.reason}); look at the record in a browser") from error
    except OSError as error:  # urllib's errors are OSErrors
        raise HisDiffError(f"no connection to Zenodo ({error}); look at the network and try again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HisDiffError(f"{url} answered something else than a record; try again later") from error
    odd = [name for name, *_ in rows if Path(name).name != name or name.startswith(".")]
    if odd:
        raise HisDiffError(
            f"record {RECORD} has a file {odd[0]!r}, which would lie outside the folder; do not trust it"
        )
    return pd.DataFrame(rows, columns=["file", "bytes", "checksum", "url"])


def fetch(name: str, checksum: str, url: str, folder: Path) -> None:
    """Fetch a file of the record and unpack it if it is an archive; one that is there and whole is kept."""
    import pooch

    kind = _ARCHIVES.get(Path(name).suffix.lower())
    is_archive = kind is not None and (kind == "Unzip" or name.lower().endswith((".tar", ".tgz", ".tar.gz")))
    try:
        pooch.retrieve(
            url,
            known_hash=checksum,
            fname=name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=_SECONDS),
            processor=getattr(pooch, str(kind))(extract_dir=".") if is_archive else None,
        )
    except Exception as error:  # of the network, of the disk, of a checksum, of the archive
        raise HisDiffError(
            f"{name} of Zenodo record {RECORD} could not be fetched ({type(error).__name__}: {error}); try again, files that "
            "are there are kept"
        ) from error
