"""The building blocks of the denoiser: gene tokens, time features and adaLN-Zero transformer blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_TIME_FEATURES = 256
_MAX_PERIOD = 10_000.0


class GeneEmbedder(nn.Module):
    """One token per gene: a learned vector of the gene plus an embedding of its noisy value."""

    def __init__(self, n_genes: int, width: int) -> None:
        super().__init__()
        self.ebd_layer_1 = nn.Parameter(torch.empty(n_genes, width))
        self.ebd_layer_2 = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.ebd_layer_2(x.transpose(1, 2))
        return values + self.ebd_layer_1


class TimeEmbedder(nn.Module):
    """Sinusoidal features of the diffusion step (cosines first), then a two-layer MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = _TIME_FEATURES // 2
        # float32 whatever the network's dtype: half precision cannot tell t = 998 from t = 999.
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
        angle = t.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * exponent)
        features = torch.cat([angle.cos(), angle.sin()], dim=1)
        embedded: Tensor = self.mlp(features.to(next(self.mlp.parameters()).dtype))
        return embedded


class SelfAttention(nn.Module):
    """Multi-head self-attention over gene tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n_tokens, width = tokens.shape
        split = self.qkv(tokens).reshape(batch, n_tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, n_tokens, width))
        return out


class FeedForward(nn.Module):
    """The block's MLP: four times the width, tanh-GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


def _norm(width: int) -> nn.LayerNorm:
    """A LayerNorm whose scale and shift come from the condition instead."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return tokens * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Transformer block whose norms and residual gates are set by the condition (adaLN-Zero; Peebles & Xie 2023)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = _norm(width)
        self.mlp = FeedForward(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition).chunk(6, 1)
        tokens = tokens + gate_attn[:, None] * self.attn(_modulate(self.norm1(tokens), shift_attn, scale_attn))
        tokens = tokens + gate_mlp[:, None] * self.mlp(_modulate(self.norm2(tokens), shift_mlp, scale_mlp))
        return tokens


class FinalLayer(nn.Module):
    """Tokens to two numbers per gene: the noise and where the variance lies between its bounds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = _norm(width)
        self.linear = nn.Linear(width, 2)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, 1)
        out: Tensor = self.linear(_modulate(self.norm_final(tokens), shift, scale))
        return out
