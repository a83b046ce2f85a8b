"""A rectified flow over the residuals of a regression: what the regression leaves open, drawn jointly over genes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.nn._blocks import Block
from hisdiff_sd.nn._network import TRUNKS

if TYPE_CHECKING:
    from collections.abc import Callable

_TIME_FEATURES = 32
_TOKEN_FEATURES = 5
_HIDDEN = 64
_LEVELS = (-1.0, 8.0)  # how far above zero counts a gene is expected to be, in deviations of its residual
_FARTHEST = 4.0  # deviations of a summary that are still told apart


class FlowNetwork(nn.Module):
    r"""Velocity of a rectified flow from Gaussian noise to residuals, conditioned on a regression's prediction.

    If residuals were Gaussian with covariance :math:`C = V \Lambda V^\top`, the best velocity would be linear and known. The
    network learns only how to bend that one: an untrained network draws Gaussian residuals of the right covariance, and few
    training spots suffice. What bends is one small MLP that all genes share. It sees the noisy residual of a gene, what its
    correlated genes say of it, how far the gene is expected above zero counts, and its spread; features of the whole spot and
    of time modulate its layers. So it learns from spots x genes how residuals are skewed near zero and how their spread
    depends on the expected expression, and cannot learn spots by heart.

    Parameters
    ----------
    n_genes
        Number of genes of the panel.
    embedding_dim
        Width of the image embeddings that the regression takes; kept so that others can be refused.
    width, depth
        Of the shared MLP.
    trunk, num_heads
        ``"mlp"``, the shared MLP; or ``"dit"``, in its place a transformer over gene tokens with so many heads, in which genes
        have vectors of their own and attend to each other.
    n_summary
        Number of principal components of the regression's prediction that describe a spot.
    n_axes
        Number of leading axes of the residuals that all genes see.

    Raises
    ------
    HisDiffError
        If a size is below 1, there is no such trunk, or heads do not divide the width.

    Notes
    -----
    Liu et al. (ICLR 2023) for rectified flow. That a denoiser is learned as a correction of the optimal linear one follows
    the preconditioning of Karras et al. (NeurIPS 2022), here with a full covariance.

    Examples
    --------
    >>> import torch
    >>> network = hd.nn.FlowNetwork(n_genes=5, embedding_dim=16)
    >>> x, t, base = torch.randn(2, 5), torch.rand(2), torch.ones(2, 5)
    >>> network(x, t, base).abs().max()  # untrained: no bend
    tensor(0., grad_fn=<MaxBackward1>)
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    scale: Tensor
    spread: Tensor
    base_shift: Tensor
    base_scale: Tensor
    base_axes: Tensor
    frequencies: Tensor

    def __init__(
        self,
        n_genes: int,
        embedding_dim: int,
        *,
        width: int = 32,
        depth: int = 2,
        n_summary: int = 6,
        n_axes: int = 4,
        trunk: str = "mlp",
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if min(n_genes, embedding_dim, width, depth, n_summary, n_axes, num_heads) < 1:
            raise HisDiffError(f"every size must be at least 1, not {(n_genes, embedding_dim, width, depth)}")
        self.trunk, self.num_heads = check_one_of(trunk, TRUNKS, "trunk"), num_heads
        if trunk == "dit" and width % num_heads:
            raise HisDiffError(f"num_heads {num_heads} does not divide width {width}")
        self.n_genes, self.embedding_dim = n_genes, embedding_dim
        self.width, self.depth = width, depth
        self.n_summary, self.n_axes = min(n_summary, n_genes), min(n_axes, n_genes)
        for name, value in _statistics(n_genes, self.n_summary).items():
            self.register_buffer(name, value)
        self.register_buffer("frequencies", math.pi / 2 * torch.arange(1.0, _TIME_FEATURES // 2 + 1), persistent=False)
        shared = trunk == "mlp"
        modulate = nn.Linear(_HIDDEN, 2 * width * depth if shared else width)
        seen = self.n_summary + self.n_axes + _TIME_FEATURES
        self.modulation = nn.Sequential(nn.Linear(seen, _HIDDEN), nn.SiLU(), modulate)
        self.first = nn.Linear(_TOKEN_FEATURES, width)
        if not shared:
            self.genes = nn.Parameter(0.02 * torch.randn(n_genes, width))
        self.layers = nn.ModuleList(
            nn.Linear(width, width) if shared else Block(width, num_heads) for _ in range(depth)
        )
        self.last = nn.Linear(width, 1)
        # no bend, and no modulation, to begin with
        shut = [modulate] if shared else [m[1] for name, m in self.named_modules() if name.endswith("adaLN_modulation")]
        for linear in (self.last, *shut):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this network, ``FlowNetwork(**network.config)``."""
        return {
            "n_genes": self.n_genes,
            "embedding_dim": self.embedding_dim,
            "width": self.width,
            "depth": self.depth,
            "n_summary": self.n_summary,
            "n_axes": self.n_axes,
            # models from before there was a choice stay the same
            **({} if self.trunk == "mlp" else {"trunk": self.trunk, "num_heads": self.num_heads}),
        }

    def set_statistics(self, **values: Tensor) -> None:
        """Take over what is known of the training residuals; see `_statistics` for names and shapes."""
        for name, wanted in _statistics(self.n_genes, self.n_summary).items():
            if values[name].shape != wanted.shape:
                raise HisDiffError(
                    f"{name} has shape {tuple(values[name].shape)}, the network needs {tuple(wanted.shape)}"
                )
            getattr(self, name).copy_(values[name])

    def deviation(self, t: Tensor) -> Tensor:
        """(B, n_genes) standard deviations along the axes at times `t` (B,): from 1 at 0 to those of residuals at 1."""
        time = t[:, None]
        return (self.eigenvalues * time**2 + (1 - time) ** 2).sqrt()

    def straight(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, n_genes) velocity that would be best if residuals were Gaussian; `x` (B, n_genes), `t` (B,)."""
        time = t[:, None]
        slope = (self.eigenvalues * time - (1 - time)) / self.deviation(t) ** 2
        velocity: Tensor = ((x @ self.eigenvectors) * slope) @ self.eigenvectors.T
        return velocity

    def forward(self, x: Tensor, t: Tensor, base: Tensor) -> Tensor:
        """What the velocity differs from the straight one.

        Parameters
        ----------
        x
            Noisy residuals in deviations of each gene, (B, n_genes).
        t
            Times from 0 (noise) to 1 (residuals), (B,).
        base
            The regression's prediction on the target scale, (B, n_genes).

        Returns
        -------
        (B, n_genes).
        """
        deviation = self.deviation(t)
        along = x @ self.eigenvectors
        expected = (along * (self.eigenvalues * t[:, None] / deviation**2)) @ self.eigenvectors.T
        level = (base / self.scale).clamp(*_LEVELS)
        tokens = torch.stack([x, expected, level, level * expected / 3, self.spread.expand_as(x)], dim=-1)
        summary = (((base - self.base_shift) / self.base_scale) @ self.base_axes).clamp(-_FARTHEST, _FARTHEST)
        angle = t[:, None] * self.frequencies
        leading = along[:, : self.n_axes] / deviation[:, : self.n_axes]
        spot = torch.cat([summary, leading, angle.cos(), angle.sin()], dim=1)
        hidden = self._through(self.first(tokens), self.modulation(spot))
        bend: Tensor = self.last(nn.functional.silu(hidden))[..., 0]
        return bend

    def _through(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """The trunk: gene tokens (B, n_genes, width) one by one, or with each other."""
        if self.trunk == "dit":
            hidden = hidden + self.genes
            for block in self.layers:
                hidden = block(hidden, condition)
            return hidden
        scale, shift = condition.reshape(len(hidden), 2, self.depth, 1, self.width).unbind(1)
        for k, layer in enumerate(self.layers):
            hidden = hidden + layer(nn.functional.silu(hidden * (1 + scale[:, k]) + shift[:, k]))
        return hidden


def _statistics(n_genes: int, n_summary: int) -> dict[str, Tensor]:
    """What a network knows of training residuals and predictions, as of independent genes of unit variance.

    ``eigenvalues`` (G,) and ``eigenvectors`` (G, G) of the correlation of residuals, largest first; ``scale`` (G,), standard
    deviations of the residuals on the target scale; ``spread`` (G,), their logarithms, standardised; ``base_shift``,
    ``base_scale`` (G,) and ``base_axes`` (G, n_summary), which turn predictions into a few summaries of unit variance.
    """
    return {
        "eigenvalues": torch.ones(n_genes),
        "eigenvectors": torch.eye(n_genes),
        "scale": torch.ones(n_genes),
        "spread": torch.zeros(n_genes),
        "base_shift": torch.zeros(n_genes),
        "base_scale": torch.ones(n_genes),
        "base_axes": torch.zeros(n_genes, n_summary),
    }


def flow_loss(network: FlowNetwork, residual: Tensor, base: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of the velocity, and that of the straight velocity alone.

    Parameters
    ----------
    network
        The network.
    residual
        Residuals in deviations of each gene, (B, n_genes).
    base
        The regression's prediction on the target scale, (B, n_genes).
    t
        Times from 0 to 1, (B,).
    noise
        Standard normal noise, (B, n_genes).

    Returns
    -------
    Two tensors (B,), means over genes. Their ratio tells what the network adds to a Gaussian: below 1 it is better.

    Examples
    --------
    >>> import torch
    >>> network = hd.nn.FlowNetwork(n_genes=5, embedding_dim=16)
    >>> x, noise, t = torch.randn(2, 5), torch.randn(2, 5), torch.rand(2)
    >>> ours, straight = hd.nn.flow_loss(network, x, torch.ones(2, 5), t, noise)
    >>> torch.equal(ours, straight)
    True
    """
    x = (1 - t)[:, None] * noise + t[:, None] * residual
    wanted = residual - noise - network.straight(x, t)
    error = (network(x, t, base) - wanted).square().mean(dim=1)
    return error, wanted.square().mean(dim=1)


@torch.no_grad()
def flow_sample(bend: Callable[[Tensor, Tensor], Tensor], network: FlowNetwork, start: Tensor, *, steps: int) -> Tensor:
    r"""Draw residuals: follow the flow from noise, the straight part exactly and the bend with the steps.

    Along the axes of the residuals, in units of their deviation :math:`s(t)`, the straight flow stands still; what is left is
    :math:`du/dt = V^\top \mathrm{bend}(x, t) / s(t)`, which changes slowly, so that few steps do (two-step Adams-Bashforth:
    one evaluation a step).

    Parameters
    ----------
    bend
        ``bend(x, t)`` returns (B, n_genes), as a `FlowNetwork` does once its base is bound.
    network
        Gives axes and deviations.
    start
        Standard normal noise along the axes, (B, n_genes).
    steps
        Number of evaluations.

    Returns
    -------
    Residuals in deviations of each gene, (B, n_genes).

    Raises
    ------
    HisDiffError
        If `steps` is below 1 or `start` has another shape.

    Examples
    --------
    >>> import torch
    >>> network = hd.nn.FlowNetwork(n_genes=3, embedding_dim=4)
    >>> start = torch.randn(2, 3)
    >>> bool(torch.allclose(hd.nn.flow_sample(lambda x, t: torch.zeros_like(x), network, start, steps=2), start))
    True
    """
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise HisDiffError(f"steps must be a whole number of at least 1, not {steps!r}")
    if start.ndim != 2 or start.shape[1] != network.n_genes:
        raise HisDiffError(f"start has shape {tuple(start.shape)}; it must be (B, {network.n_genes})")

    def at(u: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.full((len(u),), time, dtype=u.dtype, device=u.device)
        deviation = network.deviation(t[:1])
        return t, deviation, (u * deviation) @ network.eigenvectors.T

    u, before = start, None
    for k in range(steps):
        t, deviation, x = at(u, k / steps)
        slope = (bend(x, t) @ network.eigenvectors) / deviation
        u = u + (slope if before is None else 1.5 * slope - 0.5 * before) / steps
        before = slope
    return at(u, 1.0)[2]
