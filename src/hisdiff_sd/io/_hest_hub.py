"""HEST-1k on the Hugging Face hub: its catalogue, its files, their sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pandas as pd

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._hub import hub_reason

REPOSITORY = "MahmoodLab/hest"
_CATALOGUE = re.compile(r"HEST_v(\d+)_(\d+)_(\d+)\.csv")
# pictures to look at, and tiles that were cut out already: nothing here needs them
_NOT_NEEDED = ("patches", "patches_vis", "pixel_size_vis", "spatial_plots")


class HestHub:
    """The dataset at its newest commit.

    Parameters
    ----------
    token
        Of the hub; by default that of the user's login or of ``HF_TOKEN``.
    """

    def __init__(self, token: str | None = None) -> None:
        from huggingface_hub import HfApi

        self._token = token
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._api = HfApi(endpoint=self._endpoint, token=token)
        with self._said("what there is"):
            self._commit = str(self._api.dataset_info(REPOSITORY).sha)

    def catalogue(self, folder: Path | None) -> pd.DataFrame:
        """The newest table of all slides, fetched into a folder, or into the cache of the hub."""
        with self._said("the catalogue"):
            names = [e.path for e in self._api.list_repo_tree(REPOSITORY, revision=self._commit, repo_type="dataset")]
        versions = {tuple(map(int, m.groups())): m.group() for m in map(_CATALOGUE.fullmatch, names) if m}
        if not versions:
            raise HisDiffError(f"{REPOSITORY} on the hub has no catalogue HEST_v*.csv; it has been arranged anew")
        path = self.fetch(versions[max(versions)], folder)
        try:
            table = pd.read_csv(path, encoding="utf-8-sig", dtype=str)
        except ValueError as error:  # pandas' errors are ValueErrors
            raise HisDiffError(f"{path} cannot be read as a table ({error}); delete it and try again") from error
        if "id" not in table:
            raise HisDiffError(f"{path} has no column 'id'; delete it and try again")
        return table.dropna(subset="id").reset_index(drop=True)

    def files(self, ids: Sequence[str]) -> pd.DataFrame:
        """A row per file of the slides: ``file``, ``sample``, ``bytes``."""
        with self._said("the list of files"):
            tree = list(
                self._api.list_repo_tree(REPOSITORY, recursive=True, revision=self._commit, repo_type="dataset")
            )
        order = {name: place for place, name in enumerate(ids)}
        rows = []
        for entry in tree:
            parts = PurePosixPath(entry.path).parts
            if hasattr(entry, "size") and len(parts) > 1 and parts[0] not in _NOT_NEEDED and ".." not in parts:
                rows += [(entry.path, name, int(entry.size)) for name in _heads(parts[-1]) if name in order]
        rows.sort(key=lambda row: (order[row[1]], row[0]))
        found = pd.DataFrame(rows, columns=["file", "sample", "bytes"])
        lacking = [name for name in ids if name not in set(found["sample"])]
        if lacking:
            raise HisDiffError(f"{REPOSITORY} on the hub has no files of {', '.join(lacking[:5])}")
        return found

    def fetch(self, file: str, folder: Path | None) -> Path:
        """Fetch a file, or go on with it; one that is there is kept."""
        from huggingface_hub import hf_hub_download

        with self._said(file):
            return Path(
                hf_hub_download(
                    REPOSITORY,
                    file,
                    repo_type="dataset",
                    revision=self._commit,
                    local_dir=folder,
                    token=self._token,
                    endpoint=self._endpoint,
                )
            )

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Say what a failure of the hub means and what to do."""
        try:
            yield
        except HisDiffError:
            raise
        except Exception as error:  # of the hub, of the network, of the disk
            reason = hub_reason(error, REPOSITORY, gated=True, kind="dataset", token=self._token)
            raise HisDiffError(f"{what} of HEST-1k ({REPOSITORY}) could not be fetched: {reason}") from error


def _heads(name: str) -> Iterator[str]:
    """What stands before each "_" and "." of a file's name: files of a slide are called ``<id>.*`` and ``<id>_*``."""
    yield from (name[: match.start()] for match in re.finditer(r"[_.]", name))
