"""Weight files from the Hugging Face hub, and what to do when they do not come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._hub import hub_reason
from hisdiff_sd.encoders._rows import EncoderRow

USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


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
            reason = hub_reason(error, repository, gated=row.gated)
            raise HisDiffError(
                f"the weights of encoder {row.name!r} ({' or '.join(map(repr, names))} of {row.hub_id}) could not be "
                f"fetched: {reason}. Or fetch the file elsewhere and give its path as `weights`"
                f"{', with config.json and weights side by side' if row.needs_config else ''}"
            ) from error
    raise AssertionError("no names")
