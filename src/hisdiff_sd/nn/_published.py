"""Reading the training checkpoints that the authors of HisDiff publish."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.nn._network import HisDiffNetwork

if TYPE_CHECKING:
    from os import PathLike

_GENE_TABLE = "inputEmbedder.ebd_layer_1"
_IMAGE_LAYER = "img_ebd.0.weight"
# bytes of parameters per byte of the file; above 1 if parameters share their numbers
_MOST_CLAIMED = 4


def load_published_state(checkpoint_path: str | PathLike[str], n_genes: int, num_heads: int = 12) -> HisDiffNetwork:
    """Network of a published training checkpoint (a torch file with the keys "model", "opt" and "epoch").

    Width, depth and embedding width are read from the shapes of the parameters. Only tensors and plain containers are
    read: a file that asks for code is refused, and the code is not run.

    Parameters
    ----------
    checkpoint_path
        The torch file. Parameter names may have the prefix "module." that data-parallel training leaves.
    n_genes
        Number of genes of the panel the checkpoint was trained on.
    num_heads
        Self-attention heads it was trained with. They leave no trace in the shapes: another number that divides the
        width would load and give different predictions.

    Returns
    -------
    The network, float32 on the CPU, in evaluation mode.

    Raises
    ------
    MissingFileError
        If there is no such file.
    HisDiffError
        If the file is not a published checkpoint, or does not fit `n_genes` or `num_heads`.

    Examples
    --------
    >>> import tempfile, torch, hisdiff_sd as hd
    >>> network = hd.nn.HisDiffNetwork(n_genes=3, embedding_dim=8, width=16, depth=1, num_heads=2)
    >>> path = tempfile.mkdtemp() + "/0002000.pt"
    >>> torch.save({"model": network.state_dict(), "opt": {}, "epoch": 2000}, path)
    >>> hd.nn.load_published_state(path, n_genes=3, num_heads=2).n_genes
    3
    """
    path = Path(checkpoint_path)
    state = _model_state(_load(path), path)
    _check_panel(state, n_genes, path)
    blocks = {match[1] for match in (re.match(r"blocks\.(\d+)\.", name) for name in state) if match}
    width = state[_GENE_TABLE].shape[1]
    if num_heads < 1 or width % num_heads:
        raise HisDiffError(
            f"'{path}' has width {width}, which num_heads {num_heads} does not divide; "
            "give the number of heads it was trained with"
        )
    sizes: dict[str, Any] = {"width": width, "depth": max(len(blocks), 1), "num_heads": num_heads}
    make = partial(HisDiffNetwork, n_genes, state[_IMAGE_LAYER].shape[0], **sizes)
    try:
        with torch.device("meta"):  # sizes that are wrong take no memory
            expected = make().state_dict()
    except HisDiffError as error:
        raise HisDiffError(f"'{path}' cannot be used: {error}") from error
    _check_parameters(state, expected, path)
    network = make()
    try:
        network.load_state_dict(state)
    except Exception as error:  # tensors of odd kinds: sparse, quantised
        raise HisDiffError(f"the parameters of '{path}' cannot be used ({reason(error)})") from error
    return network.eval()


def _load(path: Path) -> Any:
    """Content of a torch file, without running any code in it."""
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint file '{path}'")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # `from None`: torch's own message advises to load the file with its code, which must not be followed.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise HisDiffError(
                f"'{path}' holds code ({wanted[1]}), not only tensors; it was refused and the code was not run. "
                "Ask for a file with the tensors alone"
            ) from None
        raise HisDiffError(f"'{path}' is not a torch file of plain tensors; nothing in it was run") from None
    except Exception as error:
        # On a damaged file torch's reader raises almost anything: OSError, struct.error, KeyError, AssertionError ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise HisDiffError(f"'{path}' is not a torch file that can be read ({reason})") from error


def _model_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The checkpoint's parameters by name, without the prefix of data-parallel training."""
    if not isinstance(content, Mapping):
        raise HisDiffError(f"'{path}' holds a {type(content).__name__}, not a dict with the key 'model'")
    if "model" not in content:
        keys = ", ".join(repr(key) for key in list(content)[:8]) or "none"
        raise HisDiffError(f"'{path}' has no key 'model'; its keys: {keys}{' ...' if len(content) > 8 else ''}")
    model = content["model"]
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()):
        raise HisDiffError(f"'model' in '{path}' is not a state dict (parameter names to tensors)")
    claimed = sum(value.numel() * value.element_size() for value in model.values())
    if claimed > _MOST_CLAIMED * path.stat().st_size:
        raise HisDiffError(
            f"'{path}' has {path.stat().st_size:,} bytes and claims {claimed:,} bytes of parameters; refused"
        )
    return {str(name).removeprefix("module."): value for name, value in model.items()}


def _check_panel(state: Mapping[str, Tensor], n_genes: int, path: Path) -> None:
    """Check the two parameters from which sizes are read, and the number of genes."""
    for name in (_GENE_TABLE, _IMAGE_LAYER):
        if name not in state:
            raise HisDiffError(f"'{path}' is not a HisDiff checkpoint: parameter '{name}' is missing")
        if state[name].ndim != 2:
            raise HisDiffError(f"'{name}' in '{path}' has shape {tuple(state[name].shape)}; it must have two axes")
    found = state[_GENE_TABLE].shape[0]
    if found != n_genes:
        raise HisDiffError(f"'{path}' was trained on {found} genes, but the panel has {n_genes}")


def _check_parameters(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Every expected parameter must be there in its shape, and no other."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise HisDiffError(f"the parameters of '{path}' are not those of a HisDiff network: {'; '.join(problems)}")
