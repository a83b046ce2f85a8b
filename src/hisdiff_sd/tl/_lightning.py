"""One training run of a network on Lightning: log, checkpoints, average of the weights, resume."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, WeightAveraging
from torch.utils.data import DataLoader, TensorDataset

from hisdiff_sd._device import flushed_denormals
from hisdiff_sd._precision import resolve_precision
from hisdiff_sd._progress import progress
from hisdiff_sd.tl._presets import Preset

logger = logging.getLogger("hisdiff_sd")

_CHECKPOINT, _BEST = Path("last.ckpt"), Path("best.ckpt")
_CHECKPOINT_EPOCHS = 10
_CHECKPOINT_SECONDS = 60.0  # where ten epochs take long: a checkpoint of the published network is 400 MB
_JUDGEMENTS = 30  # times a held-out slide is judged in a run


class SpotData:
    """Tensors with a row for every spot of several slides, or that all spots share."""

    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> None:
        """Move all tensors to a device."""
        for name, tensor in vars(self).items():
            setattr(self, name, tensor.to(device))


class SpotModule(L.LightningModule):
    """What all trainings share, for a Lightning trainer: data on the device, history, optimiser.

    Parameters
    ----------
    network
        The network to be trained.
    spots
        Training spots.
    held_out
        Spots of the slide that is left out; the loss on them at fixed steps and noise is logged as ``val_loss``.
    preset
        Optimiser settings.
    """

    mixed_precision = True  # on a device that computes in bfloat16

    def __init__(self, network: torch.nn.Module, spots: SpotData, held_out: SpotData | None, preset: Preset) -> None:
        super().__init__()
        self.network = network
        self.spots, self.held_out = spots, held_out
        self.preset = preset
        self.history: list[dict[str, float]] = []
        self._errors: list[torch.Tensor] = []
        self._judged: float = math.nan

    def on_fit_start(self) -> None:
        """Move the data to where the network is."""
        for spots in (self.spots, self.held_out):
            if spots is not None:
                spots.to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Keep the held-out loss for the history."""
        self._judged = float(self.trainer.callback_metrics["val_loss"])

    def on_train_epoch_end(self) -> None:
        """Add a row to the history."""
        error = float(torch.stack(self._errors).mean())
        self.history.append({"epoch": self.current_epoch, "train_loss": error, "val_loss": self._judged})
        self._errors, self._judged = [], math.nan

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The history goes on where a run goes on."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the history of the run that was interrupted."""
        self.history = list(checkpoint["history"])

    def configure_optimizers(self) -> Any:
        """AdamW; the rate rises linearly over the first steps, then falls over the preset's epochs if it says so."""
        p = self.preset
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=p.learning_rate, weight_decay=p.weight_decay)
        steps = p.epochs * math.ceil(len(self.spots) / p.batch_size)

        def rate(step: int) -> float:
            rising = min(1.0, (step + 1) / max(1, p.warmup))
            return rising * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) if p.cosine else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Run:
    """Where and how one training run works.

    Attributes
    ----------
    folder
        Gets ``last.ckpt``, from which an interrupted run goes on, and ``best.ckpt`` of the best judged epoch.
    epochs
        Number of epochs.
    preset
        Sizes and settings.
    device
        Where to train.
    seed
        Of initialisation, order and noise.
    title
        For the progress bar.
    """

    folder: Path
    epochs: int
    preset: Preset
    device: torch.device
    seed: int
    title: str


class _Checkpoints(ModelCheckpoint):
    """A checkpoint after every tenth epoch and the last, and after each that ends a minute or more after the one before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename=_CHECKPOINT.stem,
            enable_version_counter=False,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
        )
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write one if it is time."""
        done = trainer.current_epoch + 1
        late = time.monotonic() - self._last >= _CHECKPOINT_SECONDS
        if late or done % _CHECKPOINT_EPOCHS == 0 or done == trainer.max_epochs:
            super().on_train_epoch_end(trainer, pl_module)
            self._last = time.monotonic()


def fit(run: Run, module: SpotModule) -> pd.DataFrame:
    """Train a module's network in place (its averaged weights, if averaged); return the log, one row an epoch.

    The weights are those after the last epoch, or, with a held-out slide, after the epoch whose loss on it is lowest.
    """
    spots, held_out = module.spots, module.held_out
    generator = torch.Generator().manual_seed(run.seed)
    batches = DataLoader(_rows(len(spots)), batch_size=run.preset.batch_size, shuffle=True, generator=generator)
    judged = None if held_out is None else DataLoader(_rows(len(held_out)), batch_size=256)
    last = run.folder / _CHECKPOINT
    callbacks: list[L.Callback] = [_Checkpoints(run.folder)]
    if run.preset.ema:
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=_moving_average(run.preset.ema)))
    if judged is not None:
        callbacks.append(EarlyStopping("val_loss", patience=run.preset.patience))
        callbacks.append(
            ModelCheckpoint(
                run.folder,
                filename=_BEST.stem,
                monitor="val_loss",
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )
    logger.info("training, %s: %s%d epochs", run.title, "" if judged is None else "up to ", run.epochs)
    with _quiet(), flushed_denormals(), progress(f"training, {run.title}", run.epochs) as advance:
        callbacks.append(LambdaCallback(on_train_epoch_end=lambda *_: advance(1)))
        trainer = L.Trainer(
            accelerator="gpu" if run.device.type == "cuda" else run.device.type,
            devices=[run.device.index or 0] if run.device.type == "cuda" else 1,
            precision=_precision(run.device) if module.mixed_precision else "32-true",
            max_epochs=run.epochs,
            gradient_clip_val=run.preset.gradient_clip or None,
            callbacks=callbacks,
            logger=False,
            check_val_every_n_epoch=max(1, run.epochs // _JUDGEMENTS),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.seed)
            if not _finished(last, run.epochs, module):
                try:
                    trainer.fit(module, batches, judged, ckpt_path=last if last.exists() else None, weights_only=True)
                except SystemExit as stopped:  # what Lightning makes of Ctrl-C; it would end a notebook's kernel
                    raise KeyboardInterrupt from stopped
    if judged is not None:
        # under "state_dict" a checkpoint has the averaged weights, if there are any: those that were judged
        best = torch.load(run.folder / _BEST, map_location=module.device, weights_only=True)
        module.load_state_dict(best["state_dict"])
    return pd.DataFrame(module.history)


def _finished(checkpoint: Path, epochs: int, module: SpotModule) -> bool:
    """Take up a run that had ended before something else failed: a trainer would not average its weights again."""
    if not checkpoint.exists():
        return False
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if stored["epoch"] + 1 < epochs:
        return False
    module.load_state_dict(stored["state_dict"])
    module.on_load_checkpoint(stored)
    return True


def _rows(n: int) -> TensorDataset:
    return TensorDataset(torch.arange(n))


def to_tensor(values: np.ndarray) -> torch.Tensor:
    """The same values as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _moving_average(decay: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Exponential moving average whose decay rises to `decay`, so that the start is soon forgotten."""

    def average(averaged: torch.Tensor, current: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged.lerp(current, 1 - kept)

    return average


def _precision(device: torch.device) -> Any:
    """Bfloat16 where the device computes in it; loss and diffusion stay in float32."""
    return "bf16-mixed" if resolve_precision("auto", device) == "bf16" else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice on workers and hardware: the data are in memory already."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        logger.setLevel(level)
