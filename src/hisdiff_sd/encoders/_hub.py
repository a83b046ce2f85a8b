"""Weight files from the Hugging Face hub, and what to do when they do not come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._rows import EncoderRow

USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")
_LOG_IN = "run `hf auth login` (or set the environment variable HF_TOKEN)"


def fetch_weights(row: EncoderRow) -> Path:
    """Path of a row's weight file in the Hugging Face cache, downloaded if it is not there yet; see `fetch`."""
    if row.hub_id is None:
        raise HisDiffError(f"the hub has no weights of {row.timm_name!r}; give a file of them as `weights`")
    return fetch(row, (row.filename,) if row.filename else USUAL_NAMES)


def fetch(row: EncoderRow, names: Sequence[str]) -> Path:
    """Path of a file of a row's repository in the Hugging Face cache, downloaded if it is not there yet.

    Parameters
    ----------
    row
        Row with a `hub_id`. The user's token, cache folder and hub (``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``) are
        those of `huggingface_hub`.
    names
        Names under which the file may go; the first that is there is taken.

    Raises
    ------
    HisDiffError
        If the file cannot be had: no token, terms not accepted, no network, no such file. Each says what to do.
    """
    from huggingface_hub import errors, hf_hub_download

    assert row.hub_id is not None
    repository, _, revision = row.hub_id.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None, endpoint=endpoint))
        # Whatever goes wrong in there, the user needs the same: what it was, and the way round the hub.
        except Exception as error:
            if isinstance(error, errors.EntryNotFoundError) and name != names[-1]:
                continue
            raise HisDiffError(
                f"the weights of encoder {row.name!r} ({' or '.join(map(repr, names))} of {row.hub_id}) could not be "
                f"fetched: {_reason(error, row)}. Or fetch the file elsewhere and give its path as `weights`"
                f"{', with config.json and weights side by side' if row.needs_config else ''}"
            ) from error
    raise AssertionError("no names")


def _reason(error: Exception, row: EncoderRow) -> str:
    """Say what a failed download means and how to make it work."""
    from huggingface_hub import errors, get_token

    page = f"https://huggingface.co/{str(row.hub_id).partition('@')[0]}"
    # Where nothing is cached, hf_hub_download wraps what really happened.
    seen = (error.__cause__ or error) if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(seen, "response", None), "status_code", None)
    if isinstance(seen, errors.OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE) and the file is not in the cache; unset it to download"
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        return f"no connection to the hub ({_first_line(seen)}), and the file is not in the cache; look at the network"
    if isinstance(seen, errors.EntryNotFoundError):
        return f"the hub has no such file; see which there are at {page}/tree/main"
    if isinstance(seen, errors.GatedRepoError) or (status == 401 and row.gated):
        if get_token() is None:
            return f"it is gated and no token was found; accept its terms at {page}, then {_LOG_IN}"
        if status == 401:
            return (
                f"the hub refused the token; make a new one at https://huggingface.co/settings/tokens, then {_LOG_IN}"
            )
        return f"it is gated and its terms are not accepted yet; accept them at {page} with the account of the token"
    if isinstance(seen, errors.RepositoryNotFoundError):
        return f"the hub has no {row.hub_id}, or shows it to members only; see {page}, then {_LOG_IN}"
    if status in (401, 403):
        return f"the hub refused the token ({_first_line(seen)}); give it the right to read gated repositories"
    return f"{_first_line(seen)}; try again later"


def _first_line(error: BaseException | None) -> str:
    """First line of an error's message that says something."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
