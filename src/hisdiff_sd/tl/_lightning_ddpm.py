"""Training of the published process: noise is predicted, its variance learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.model import Scalers
from hisdiff_sd.nn import GaussianDiffusion, HisDiffNetwork
from hisdiff_sd.tl._lightning import SpotData, SpotModule, to_tensor
from hisdiff_sd.tl._presets import Preset

_VALIDATION_DRAWS = 8


class SpotTensors(SpotData):
    """Spots of several slides as tensors; contexts are rows into one embedding matrix, so nothing is stored twice.

    Parameters
    ----------
    slides, truth
        Inputs and measured expression of each slide.
    scalers
        Shifts and scales of targets and embeddings.
    """

    def __init__(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], scalers: Scalers) -> None:
        starts = np.cumsum([0] + [s.n for s in slides[:-1]])
        embedding = np.concatenate([s.embedding for s in slides])
        y = np.concatenate([m.y for m in truth])
        self.embedding = to_tensor((embedding - scalers.embedding_shift) / scalers.embedding_scale)
        self.y = to_tensor((y - scalers.target_shift) / scalers.target_scale)[:, None]
        self.near, self.wide = (
            torch.from_numpy(np.concatenate([getattr(s, c).index + o for s, o in zip(slides, starts, strict=True)]))
            for c in ("near", "wide")
        )
        self.near_mask, self.wide_mask = (
            torch.from_numpy(np.concatenate([getattr(s, c).mask for s in slides])) for c in ("near", "wide")
        )

    def context(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the network is conditioned on at `rows`."""
        e, near, wide = self.embedding, self.near[rows], self.wide[rows]
        return e[rows], e[near], e[wide], self.near_mask[rows], self.wide_mask[rows]


class HisDiffModule(SpotModule):
    """The published network with its loss, for a Lightning trainer; see `SpotModule`."""

    network: HisDiffNetwork
    spots: SpotTensors
    held_out: SpotTensors | None

    def __init__(
        self, network: HisDiffNetwork, spots: SpotTensors, held_out: SpotTensors | None, preset: Preset
    ) -> None:
        super().__init__(network, spots, held_out, preset)
        self.diffusion = GaussianDiffusion()

    def training_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of improved DDPM at random steps."""
        rows = batch[0]
        y = self.spots.y[rows]
        t = torch.randint(0, len(self.diffusion.betas), (len(rows),), device=self.device)
        noise = torch.randn_like(y)
        noisy = self.diffusion.q_sample(y, t, noise)
        output = self.network(noisy, t, *self.spots.context(rows))
        loss = self.diffusion.training_loss(output.float(), y, noisy, t, noise)
        self._errors.append(loss.mse.mean().detach())
        return loss.loss.mean()

    def validation_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> None:
        """Noise error of the held-out slide, always at the same steps and with the same noise."""
        assert self.held_out is not None
        rows = batch[0]
        y = self.held_out.y[rows]
        condition = self.network.condition(*self.held_out.context(rows))
        generator = torch.Generator().manual_seed(batch_idx)
        steps = len(self.diffusion.betas)
        errors = []
        for draw in range(_VALIDATION_DRAWS):
            noise = torch.randn(y.shape, generator=generator).to(y)
            low, high = draw * steps // _VALIDATION_DRAWS, (draw + 1) * steps // _VALIDATION_DRAWS
            t = torch.randint(low, high, (len(rows),), generator=generator).to(self.device)
            output = self.network.denoise(self.diffusion.q_sample(y, t, noise), t, condition)
            errors.append(((output[:, :1].float() - noise) ** 2).mean())
        self.log("val_loss", torch.stack(errors).mean(), batch_size=len(rows))
