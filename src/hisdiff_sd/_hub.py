"""What a failed download from the Hugging Face hub means, and how to make it work."""

from __future__ import annotations

LOG_IN = "run `hf auth login` (or set the environment variable HF_TOKEN)"


def hub_reason(error: Exception, repository: str, *, gated: bool, kind: str = "model", token: str | None = None) -> str:
    """Say why a file of a repository could not be had, and what to do.

    Parameters
    ----------
    error
        What `huggingface_hub` raised.
    repository
        Its id, such as ``"MahmoodLab/hest"``.
    gated
        Whether its terms have to be accepted.
    kind
        ``"model"`` or ``"dataset"``.
    token
        The token that was used, if it was given by hand.
    """
    from huggingface_hub import errors, get_token

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    # Where nothing is cached, hf_hub_download wraps what really happened.
    seen = (error.__cause__ or error) if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(seen, "response", None), "status_code", None)
    if isinstance(seen, errors.OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE) and the file is not in the cache; unset it to download"
    if status is None and (isinstance(error, errors.LocalEntryNotFoundError) or _no_network(seen)):
        return f"no connection to the hub ({first_line(seen)}), and the file is not in the cache; look at the network"
    if isinstance(seen, errors.EntryNotFoundError):
        return f"the hub has no such file; see which there are at {page}/tree/main"
    if isinstance(seen, errors.GatedRepoError) or (status == 401 and gated):
        if token is None and get_token() is None:
            return f"it is gated and no token was found; accept its terms at {page}, then {LOG_IN}"
        if status == 401:
            return f"the hub refused the token; make a new one at https://huggingface.co/settings/tokens, then {LOG_IN}"
        return f"it is gated and its terms are not accepted yet; accept them at {page} with the account of the token"
    if isinstance(seen, errors.RepositoryNotFoundError):
        return f"the hub has no {repository}, or shows it to members only; see {page}, then {LOG_IN}"
    if status in (401, 403):
        return f"the hub refused the token ({first_line(seen)}); give it the right to read gated repositories"
    return f"{first_line(seen)}; try again later"


def first_line(error: BaseException | None) -> str:
    """First line of an error's message that says something."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _no_network(error: BaseException) -> bool:
    """Whether nobody answered, by the names that HTTP libraries give that: which one is used differs by version."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "ConnectError", "ConnectTimeout", "NetworkError", "TimeoutException"})
