"""Messages of the API in the words of the command line: its options for arguments, its commands for functions."""

from __future__ import annotations

import re
from collections.abc import Callable

from hisdiff_sd._cli._options import ENCODERS


def in_words_of_the_command(message: str) -> str:
    """A message of the API, with the command and the option that a function and its argument are called here."""
    for pattern, words in _SENTENCES:
        message = re.sub(pattern, words, message)
    message = _ARGUMENT.sub(_option, message)
    return _FUNCTION.sub(lambda found: f"hisdiff-sd {_COMMANDS[found[1]]}", message)


# what differs in more than a name; a call of a function stands before the arguments in it
_SENTENCES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (
        r"open the slide with a companion .*hd\.io\.open\(.*\)",
        "give a folder for the results: --companions FOLDER",
    ),
    (
        r"pass model= \(a HisDiff, its folder or (.*?)\), or set hd\.settings\.model or",
        r"pass --model (its folder or \1), or set",
    ),
    (r"open both: hd\.io\.open\(store, .*?\)", "give the store, and the folder of the companion as --companions"),
    (
        r"hd\.pp\.embed\(sdata, (<?[^\s,>)]+>?), tile_um=([^\s,)]+)(.*?)\)",
        lambda found: (
            f"hisdiff-sd embed STORE --encoder {found[1].strip(chr(39))}{_tile_um(found[2])}{_joined(found[3])}"
        ),
    ),
    (r"hd\.io\.convert\((<.*?>), '?(.*?)'?, link=True\)", r"hisdiff-sd convert \1 \2 --link"),
    (r"hd\.tl\.predict\(sdata, model, spacing_um=\.\.\.\)", "hisdiff-sd predict --spacing-um"),
    (r"(hd\.tl\.\w+)\((sdata, model|slides)\)", r"\1"),
    (r"a folder that HisDiff\.save wrote", "a folder that hisdiff-sd train wrote"),
    (r"(to replace the model), or load it", r"\1, or choose another --out"),
    (r"a name of hd\.encoders\.table\(\)", f"one of {', '.join(ENCODERS)}, the name"),
    (r"lay a grid of tiles on the slide first: hd\.pp\.tissue and hd\.pp\.tile", "hisdiff-sd predict lays tiles on it"),
    (
        r"read the slide with hd\.io\.hest, hd\.io\.visium or hd\.io\.wsi, or",
        "convert the slide with hisdiff-sd convert, or",
    ),
    (r": hd\.pp\.(tissue|tile)$", ""),  # what is being done; no command of its own
    (r"one with hd\.io\.write", "some with hisdiff-sd convert"),
    (r"it again with hd\.io\.write", "it again with hisdiff-sd convert"),
    (r"give a list: \['(.*?)'\]", r"give \1"),
    (r"shapes_key=", "shapes="),
    (r"key_added=", "key="),
)
_COMMANDS = {
    "io.download": "download",
    "io.hest_samples": "samples",
    "io.convert": "convert",
    "io.check": "check",
    "io.qc": "qc",
    "io.to_anndata": "export",
    "pp.embed": "embed",
    "pp.select_genes": "genes",
    "tl.train": "train",
    "tl.predict": "predict",
    "tl.evaluate": "evaluate",
    "tl.cross_validate": "cross-validate",
    "pl.report": "report",
}
_OPTIONS = (
    "batch_size|by|companions|depth|device|dtype|encoder|epochs|genes|include|keep_samples|key|link|max_mpp|model|n_samples|n_top|"
    "overwrite|padding|preset|rows|sampler|samples|seed|shapes|spacing_um|steps|target|tile_um|token|weights"
)
_FUNCTION = re.compile(rf"\bhd\.({'|'.join(map(re.escape, _COMMANDS))})\b")
# not in a call of Python that has no command, nor in a path, such as a/key=1/b
_ARGUMENT = re.compile(rf"hd\.[\w.]+\([^)]*\)|(?<![\w/.=-])({_OPTIONS})=((?:'[^']*')|[^\s,;:()]*)")


def _option(found: re.Match[str]) -> str:
    """``--overwrite`` of ``overwrite=True``, ``--n-samples 0`` of ``n_samples=0``, ``--key`` of ``key=``."""
    if found[1] is None:
        return found[0]
    value = "" if found[2] == "True" else found[2].strip("'")
    return f"--{found[1].replace('_', '-')}{' ' * bool(value)}{value}"


def _tile_um(value: str) -> str:
    return "" if value == "None" else f" --tile-um {value}"


def _joined(arguments: str) -> str:
    """Arguments of a call without the commas between them."""
    return arguments.replace(",", "")
