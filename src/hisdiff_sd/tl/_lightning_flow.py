"""Training of the flow over a regression's residuals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hisdiff_sd.nn import FlowNetwork, flow_loss
from hisdiff_sd.tl._lightning import SpotData, SpotModule, to_tensor

_VALIDATION_DRAWS = 8


class ResidualTensors(SpotData):
    """Spots of several slides: what a regression predicted without their slide, and what it left open.

    Parameters
    ----------
    residual
        (n, G) residuals in deviations of each gene.
    base
        (n, G) predictions on the target scale.
    """

    def __init__(self, residual: np.ndarray, base: np.ndarray) -> None:
        self.y, self.base = to_tensor(residual), to_tensor(base)


class FlowModule(SpotModule):
    """The flow with its loss, for a Lightning trainer; see `SpotModule`.

    Losses are logged as that of the network by that of the straight flow: below 1, the network helps, on a slide that it has not
    seen if it is the held-out loss.
    """

    # the straight velocity along small axes needs all digits, and the network is small
    mixed_precision = False

    network: FlowNetwork
    spots: ResidualTensors
    held_out: ResidualTensors | None

    def training_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Velocity error at random times."""
        rows = batch[0]
        y = self.spots.y[rows]
        t = torch.rand(len(rows), device=self.device)
        error, straight = flow_loss(self.network, y, self.spots.base[rows], t, torch.randn_like(y))
        loss = error.mean()
        self._errors.append((loss / straight.mean()).detach())
        return loss

    def validation_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> None:
        """Velocity error on the held-out slide, always at the same times and with the same noise."""
        assert self.held_out is not None
        rows = batch[0]
        y, base = self.held_out.y[rows], self.held_out.base[rows]
        generator = torch.Generator().manual_seed(batch_idx)
        ours, straight = [], []
        for draw in range(_VALIDATION_DRAWS):
            noise = torch.randn(y.shape, generator=generator).to(y)
            t = ((draw + torch.rand(len(rows), generator=generator)) / _VALIDATION_DRAWS).to(y)
            error, without = flow_loss(self.network, y, base, t, noise)
            ours.append(error.mean())
            straight.append(without.mean())
        self.log("val_loss", torch.stack(ours).sum() / torch.stack(straight).sum(), batch_size=len(rows))
