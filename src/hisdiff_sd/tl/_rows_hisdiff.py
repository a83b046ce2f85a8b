"""Rows that train a model of this package on the training slides of a fold. What they call of training is called here."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._presets import preset_of
from hisdiff_sd.tl._row import FitContext, Fitted, row_settings

if TYPE_CHECKING:
    import torch

    from hisdiff_sd.model import HisDiff
    from hisdiff_sd.tl._gather import TrainingSlides

PREFIX = "hisdiff:"


def default_preset() -> str:
    """The recipe that `hd.tl.train` takes by default."""
    from hisdiff_sd.tl._train import train

    return str(inspect.signature(train).parameters["preset"].default)


@dataclass(frozen=True)
class HisDiffRow:
    """A HisDiff model, trained in every fold as `hd.tl.train` does.

    Parameters
    ----------
    preset
        As in `hd.tl.train`.
    epochs
        Train for just so long; by default the length is chosen by leaving training slides out.
    steps
        Steps of the sampler; by default those of `hd.tl.predict`.
    trunk
        As in `hd.tl.train`; by default that of the preset.
    label
        Name of the row; by default ``hisdiff:<preset>``, or ``hisdiff:<preset>:<trunk>``. Rows of other settings besides
        need their own.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> row = hd.tl.HisDiffRow("flow", epochs=1, label="quick")
    >>> cv = hd.tl.cross_validate(slides, by="slide", genes=["ERBB2", "EPCAM"], encoder="morphology", rows=["mean", row])
    >>> cv.rows
    ['mean', 'quick']
    """

    preset: str
    epochs: int | None = None
    steps: int | None = None
    label: str = ""
    trunk: str | None = None

    def __post_init__(self) -> None:
        preset_of(self.preset, self.trunk)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.label or PREFIX + self.preset + (f":{self.trunk}" if self.trunk else "")

    def fit(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        """Train, or load the model that an interrupted call has finished."""
        from hisdiff_sd.model import HisDiff

        settings = row_settings(self) | {
            "recipe": dataclasses.asdict(preset_of(self.preset, self.trunk)),
            "seed": context.seed,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        place = context.work / f"{self.preset}-{digest}"
        finished = place / "seconds.json"
        if finished.exists():
            context.spent_before(float(json.loads(finished.read_text())))
            return _Model(HisDiff.load(place / "model"), self.steps, context.device)
        data = dataclasses.replace(context.data, inputs=list(slides), truth=list(truth))
        checkpoints = place / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        model, seconds = context.timed(lambda: self._trained(data, context, checkpoints))
        model.save(place / "model", overwrite=True)
        finished.write_text(json.dumps(seconds))
        shutil.rmtree(checkpoints, ignore_errors=True)
        return _Model(model, self.steps, context.device)

    def _trained(self, data: TrainingSlides, context: FitContext, checkpoints: Path) -> HisDiff:
        from hisdiff_sd.tl._fit import Settings
        from hisdiff_sd.tl._train import _train

        settings = Settings(preset_of(self.preset, self.trunk), context.device, context.seed)
        model, _ = _train(data, settings, self.preset, self.epochs, checkpoints)
        return model


@dataclass(frozen=True)
class _Model:
    model: HisDiff
    steps: int | None
    device: torch.device

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        from hisdiff_sd.tl._sample import sample_slide

        draws = Draws.of(self.model.process, n_samples, steps=self.steps, seed=seed)
        return sample_slide(self.model, slide, draws, self.device)
