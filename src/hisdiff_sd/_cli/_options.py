"""Options that several commands have, each named and explained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

ENCODERS = (
    "uni",
    "uni2",
    "virchow2",
    "hoptimus0",
    "hoptimus1",
    "h0mini",
    "gigapath",
    "phikon2",
    "resnet50",
    "morphology",
)
PRESETS = ("flow", "small", "published")
TRUNKS = ("dit", "mlp")
TARGETS = ("log2", "cp10k")


def _completed(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


Stores = Annotated[
    list[str],
    typer.Argument(metavar="STORE", help="Stores of slides, or folders that hold stores.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Workers = Annotated[int, typer.Option("--workers", help="Processes on this machine that work on a slide each.")]
Device = Annotated[str, typer.Option(help="Torch device, such as cuda:0; 'auto' takes a GPU where there is one.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Encoder = Annotated[
    str,
    typer.Option(
        help="Tile encoder: a name of hd.encoders.table, of timm, or hf-hub:owner/name.",
        autocompletion=_completed(ENCODERS),
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Local weight file of the encoder.")]
TileUm = Annotated[float | None, typer.Option(help="Side of a tile in um; the published tile in pixels by default.")]
Padding = Annotated[str, typer.Option(help="What a tile shows outside the slide: black, white or reflect.")]
Companions = Annotated[
    Path | None, typer.Option(help="Folder for the results, for stores that cannot or shall not be written to.")
]
Target = Annotated[
    str,
    typer.Option(help="log2: log2(count + 1); cp10k: log(1 + counts per 10,000).", autocompletion=_completed(TARGETS)),
]
Preset = Annotated[
    str, typer.Option(help="Sizes and settings: flow, small or published.", autocompletion=_completed(PRESETS))
]
Trunk = Annotated[
    str | None,
    typer.Option(
        help="Another trunk for the network: dit, a transformer over genes, or mlp; by default that of the preset.",
        autocompletion=_completed(TRUNKS),
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a model, or its id on the Hugging Face hub; HISDIFF_SD_MODEL by default.", show_default=False
    ),
]


def listed(text: str | None) -> list[str]:
    """The names in ``A,B``."""
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]
