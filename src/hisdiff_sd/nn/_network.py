"""The HisDiff denoiser: noisy expression of a spot and the embeddings around it -> noise and its variance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.nn._blocks import Block, FinalLayer, GeneEmbedder, TimeEmbedder
from hisdiff_sd.nn._vector import VectorBlock, VectorEmbedder, VectorFinalLayer

#: What a network can have as its trunk, a transformer over gene tokens (``"dit"``) or no attention between them (``"mlp"``).
TRUNKS = ("dit", "mlp")


def largest_head_count(embedding_dim: int, most: int = 8) -> int:
    """Largest number of attention heads, at most `most`, that divides an embedding width.

    Parameters
    ----------
    embedding_dim
        Width of the embeddings.
    most
        Upper bound; HisDiff uses 8 heads.

    Returns
    -------
    Number of heads; 1 for a prime width above `most`.

    Examples
    --------
    >>> hd.nn.largest_head_count(1024), hd.nn.largest_head_count(2050), hd.nn.largest_head_count(31)
    (8, 5, 1)
    """
    if embedding_dim < 1 or most < 1:
        raise HisDiffError(f"embedding_dim and most must be at least 1, not {embedding_dim} and {most}")
    return max(heads for heads in range(1, most + 1) if embedding_dim % heads == 0)


class HisDiffNetwork(nn.Module):
    """HisDiff's denoising transformer over genes, conditioned on a spot's hierarchical image context.

    Every gene is a token (or all are one, with the trunk ``"mlp"``, which was not published). The image condition is the
    sum of two cross-attentions that ask, with the spot's own embedding, its near neighbours and its wide surroundings
    (both include the spot itself). Parameter names and shapes are those of the published checkpoints, and the defaults are
    the published settings.

    Parameters
    ----------
    n_genes
        Number of genes of the panel.
    embedding_dim
        Width of the image embeddings (UNI: 1024).
    width
        Width of the gene tokens; even, and a multiple of `num_heads`.
    depth
        Number of transformer blocks.
    num_heads
        Heads of the self-attention over genes.
    attention_heads
        Heads of the cross-attention over spots; must divide `embedding_dim`. `None` takes the largest divisor that is
        at most 8.
    trunk
        ``"dit"``, the published transformer over gene tokens; or ``"mlp"``, a residual MLP on the vector of all genes, for which
        `num_heads` plays no part.

    Raises
    ------
    HisDiffError
        If a size is not a positive whole number, or heads do not divide their width.

    Notes
    -----
    The trunk is a diffusion transformer with adaLN-Zero (Peebles & Xie, ICCV 2023), and is initialised like one: the
    modulation and final layers start at zero, so that an untrained network returns zeros.

    Examples
    --------
    >>> import torch
    >>> network = hd.nn.HisDiffNetwork(n_genes=5, embedding_dim=16, width=24, depth=1, num_heads=2)
    >>> spot, neighbour, wide = torch.randn(2, 16), torch.randn(2, 9, 16), torch.randn(2, 49, 16)
    >>> network(torch.randn(2, 1, 5), torch.tensor([3, 999]), spot, neighbour, wide).shape
    torch.Size([2, 2, 5])
    """

    def __init__(
        self,
        n_genes: int,
        embedding_dim: int,
        *,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 12,
        attention_heads: int | None = None,
        trunk: str = "dit",
    ) -> None:
        super().__init__()
        self.trunk = check_one_of(trunk, TRUNKS, "trunk")
        dit = trunk == "dit"
        _check_sizes(n_genes=n_genes, embedding_dim=embedding_dim, width=width, depth=depth, num_heads=num_heads)
        if attention_heads is None:
            attention_heads = largest_head_count(embedding_dim)
        _check_sizes(attention_heads=attention_heads)
        if width % 2:
            raise HisDiffError(f"width must be even, not {width}")
        if dit:
            _check_divides("num_heads", num_heads, "width", width)
        _check_divides("attention_heads", attention_heads, "embedding_dim", embedding_dim)
        self.n_genes, self.embedding_dim = n_genes, embedding_dim
        self.width, self.depth = width, depth
        self.num_heads, self.attention_heads = num_heads, attention_heads

        # These attribute names are the checkpoint's parameter names; their order is the checkpoint's order.
        self.inputEmbedder = (GeneEmbedder if dit else VectorEmbedder)(n_genes, width)
        self.time_embed = TimeEmbedder(width)
        self.crossAttention_ln = nn.MultiheadAttention(embedding_dim, attention_heads, batch_first=True)
        self.crossAttention_gn = nn.MultiheadAttention(embedding_dim, attention_heads, batch_first=True)
        self.img_ebd = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.ReLU(), nn.Linear(embedding_dim, width)
        )
        self.blocks = nn.ModuleList(Block(width, num_heads) if dit else VectorBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width) if dit else VectorFinalLayer(n_genes, width)
        self._initialise()

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this network, ``HisDiffNetwork(**network.config)``."""
        return {
            "n_genes": self.n_genes,
            "embedding_dim": self.embedding_dim,
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "attention_heads": self.attention_heads,
            **(
                {} if self.trunk == "dit" else {"trunk": self.trunk}
            ),  # models from before there was a choice stay the same
        }

    def condition(
        self,
        spot: Tensor,
        neighbour: Tensor,
        global_: Tensor,
        neighbour_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
    ) -> Tensor:
        """Image condition of each spot; it does not depend on the diffusion step.

        Parameters
        ----------
        spot
            Embedding of the spots, (B, embedding_dim).
        neighbour, global_
            Embeddings of the near and of the wide context, (B, K, embedding_dim); the spot itself is among them.
        neighbour_mask, global_mask
            Bool, (B, K): True where there is a real neighbour, False where the context is padded. What stands in the
            padding has no influence. `None` means no padding.

        Returns
        -------
        (B, width), in the dtype of the network.

        Raises
        ------
        HisDiffError
            If shapes do not fit, a mask is not bool, or a spot has no real neighbour.
        """
        self._check_shape("spot", spot, (None, self.embedding_dim))
        query = spot[:, None]
        near = self._attend(self.crossAttention_ln, query, neighbour, neighbour_mask, "neighbour")
        wide = self._attend(self.crossAttention_gn, query, global_, global_mask, "global")
        condition: Tensor = self.img_ebd(near + wide)
        return condition

    def denoise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict the noise in `x`, and the variance of the reverse step, given a computed condition.

        Parameters
        ----------
        x
            Noisy expression, (B, 1, n_genes).
        t
            Diffusion steps 0 ... 999, (B,).
        condition
            What `condition` returned, (B, width).

        Returns
        -------
        (B, 2, n_genes): channel 0 the noise; channel 1 where the log-variance lies between its bounds, from -1 (that
        of the posterior) to 1 (that of the forward step).

        Raises
        ------
        HisDiffError
            If shapes do not fit the network.
        """
        batch = x.shape[0]
        self._check_shape("x", x, (None, 1, self.n_genes))
        self._check_shape("t", t, (batch,))
        self._check_shape("condition", condition, (batch, self.width))
        tokens = self.inputEmbedder(x)
        fused = self.time_embed(t) + condition
        for block in self.blocks:
            tokens = block(tokens, fused)
        out: Tensor = self.final_layer(tokens, fused)
        return out.transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        spot: Tensor,
        neighbour: Tensor,
        global_: Tensor,
        neighbour_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
    ) -> Tensor:
        """`denoise` with the `condition` of the same batch; see there.

        Returns
        -------
        (B, 2, n_genes).
        """
        return self.denoise(x, t, self.condition(spot, neighbour, global_, neighbour_mask, global_mask))

    def _attend(
        self, attention: nn.MultiheadAttention, query: Tensor, context: Tensor, mask: Tensor | None, name: str
    ) -> Tensor:
        """What the spots find in one context, (B, embedding_dim)."""
        self._check_shape(f"the {name} context", context, (query.shape[0], None, self.embedding_dim))
        padding = None
        if mask is not None:
            _check_mask(mask, context, name)
            padding = ~mask
            # Weights of padding are zero, but zero times NaN is NaN: take the content out as well.
            context = context.masked_fill(padding[:, :, None], 0)
        out: Tensor = attention(query, context, context, key_padding_mask=padding, need_weights=False)[0]
        return out[:, 0]

    def _check_shape(self, name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
        fits = tensor.ndim == len(expected) and all(
            want is None or size == want for size, want in zip(tensor.shape, expected, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise HisDiffError(f"{name} has shape {tuple(tensor.shape)}; this network ({self.config}) needs ({wanted})")

    def _initialise(self) -> None:
        """Start values of a diffusion transformer with adaLN-Zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if isinstance(self.inputEmbedder, GeneEmbedder):
            nn.init.normal_(self.inputEmbedder.ebd_layer_1, std=0.02)
        for module in self.time_embed.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        modulations = [m[1] for name, m in self.named_modules() if name.endswith("adaLN_modulation")]
        for linear in [*modulations, self.final_layer.linear]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise HisDiffError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_divides(heads_name: str, heads: int, width_name: str, width: int) -> None:
    if width % heads:
        raise HisDiffError(
            f"{heads_name} {heads} does not divide {width_name} {width}; the largest number of heads up to {heads} "
            f"that does is {largest_head_count(width, heads)}"
        )


def _check_mask(mask: Tensor, context: Tensor, name: str) -> None:
    if mask.dtype is not torch.bool or mask.shape != context.shape[:2]:
        raise HisDiffError(
            f"the {name} mask is {mask.dtype} of shape {tuple(mask.shape)}; "
            f"it must be torch.bool of shape {tuple(context.shape[:2])}, True = a real neighbour"
        )
    empty = torch.nonzero(~mask.any(dim=1)).flatten().tolist()
    if empty:
        raise HisDiffError(
            f"{len(empty)} spots of the batch have no real {name} neighbour (first: number {empty[0]}); "
            "a spot belongs to its own context, so its mask always has at least one True"
        )
