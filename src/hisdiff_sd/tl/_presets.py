"""Sizes and training settings by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hisdiff_sd._errors import check_one_of
from hisdiff_sd.nn import TRUNKS


@dataclass(frozen=True)
class Preset:
    """One set of sizes and training settings.

    Attributes
    ----------
    process
        ``"ddpm"``: expression is denoised, as published. ``"flow"``: a rectified flow draws what a regression leaves open.
    trunk
        ``"dit"``: a transformer over gene tokens, as published. ``"mlp"``: no attention between genes.
    width, depth, num_heads
        Of the network; an ``"mlp"`` has no heads.
    learning_rate, weight_decay, batch_size
        Of AdamW; the rate rises over `warmup` steps, and then stays, or falls to zero over `epochs` on a cosine if
        `cosine`, wherever the training stops.
    epochs
        Longest training; the length itself is chosen by leaving slides out, if `choose_length`.
    patience
        Of 30 judgements of a left-out slide, how many without a better one end its run early.
    gradient_clip
        Largest norm of the gradient, 0 for no limit.
    ema
        Decay of the average of the weights per step, 0 for none.
    standardise
        Whether targets and embeddings are standardised per gene and dimension.
    """

    process: str
    trunk: str
    width: int
    depth: int
    num_heads: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int
    warmup: int
    cosine: bool
    gradient_clip: float
    ema: float
    standardise: bool
    choose_length: bool


PRESETS = {
    # The default: it wins on left-out slides, see docs/benchmarks.md.
    "flow": Preset(
        process="flow",
        trunk="mlp",
        width=32,
        depth=2,
        num_heads=4,
        learning_rate=3e-3,
        weight_decay=0.01,
        batch_size=64,
        epochs=40,
        patience=30,
        warmup=20,
        cosine=True,
        gradient_clip=1.0,
        ema=0.99,
        standardise=True,
        choose_length=True,
    ),
    # Numbers of the published training script.
    "published": Preset(
        process="ddpm",
        trunk="dit",
        width=384,
        depth=12,
        num_heads=12,
        learning_rate=1e-4,
        weight_decay=0.0,
        batch_size=128,
        epochs=2000,
        patience=8,
        warmup=0,
        cosine=False,
        gradient_clip=0.0,
        ema=0.0,
        standardise=False,
        choose_length=False,
    ),
    # The published kind for a laptop; chosen by leaving out each of three slides, see docs/benchmarks.md.
    "small": Preset(
        process="ddpm",
        trunk="dit",
        width=64,
        depth=2,
        num_heads=4,
        learning_rate=2e-3,
        weight_decay=4.0,
        batch_size=64,
        epochs=120,
        patience=8,
        warmup=50,
        cosine=True,
        gradient_clip=1.0,
        ema=0.99,
        standardise=True,
        choose_length=True,
    ),
}


def preset_of(name: str, trunk: str | None = None) -> Preset:
    """The preset of this name, with another trunk if one is given."""
    found = PRESETS[check_one_of(name, PRESETS, "preset")]
    return found if trunk is None else replace(found, trunk=check_one_of(trunk, TRUNKS, "trunk"))
