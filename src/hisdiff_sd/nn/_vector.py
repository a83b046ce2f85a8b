"""The denoiser without attention between genes: all genes of a spot are one vector, and the trunk is a residual MLP."""

from __future__ import annotations

from torch import Tensor, nn

from hisdiff_sd.nn._blocks import FeedForward, _modulate, _norm


class VectorEmbedder(nn.Module):
    """One token for all genes: a linear map of their noisy values."""

    def __init__(self, n_genes: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_genes, width)

    def forward(self, x: Tensor) -> Tensor:
        token: Tensor = self.linear(x)
        return token


class VectorBlock(nn.Module):
    """Residual MLP whose norm and gate are set by the condition (the MLP half of an adaLN-Zero block)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.mlp = FeedForward(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, token: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(condition).chunk(3, 1)
        return token + gate[:, None] * self.mlp(_modulate(self.norm(token), shift, scale))


class VectorFinalLayer(nn.Module):
    """The token to two numbers per gene: the noise and where the variance lies between its bounds."""

    def __init__(self, n_genes: int, width: int) -> None:
        super().__init__()
        self.norm_final = _norm(width)
        self.linear = nn.Linear(width, 2 * n_genes)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, token: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, 1)
        out: Tensor = self.linear(_modulate(self.norm_final(token), shift, scale))
        return out.reshape(len(out), 2, -1).transpose(1, 2)
