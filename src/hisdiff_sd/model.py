"""The model bundle: a network with everything that is needed to use, judge and trust it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import ModelCard, ModelHubMixin

from hisdiff_sd import _bundle
from hisdiff_sd._baselines import Baselines
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._model_card import model_card
from hisdiff_sd._residual import Residual
from hisdiff_sd._targets import TARGETS
from hisdiff_sd._trust import Trust
from hisdiff_sd.io._record import is_size
from hisdiff_sd.nn import FlowNetwork, HisDiffNetwork, load_published_state
from hisdiff_sd.tiles import TileProtocol

SPOT_GRIDS = ("", "square", "hexagonal")


@dataclass(frozen=True)
class ModelConfig:
    """What a model was made for; it is compared with a slide before anything is predicted.

    Attributes
    ----------
    genes
        The panel, in the order of the network's outputs.
    target
        ``"log2"`` or ``"cp10k"``.
    encoder, encoder_hash
        Tile encoder and the hash of its weights (empty if unknown).
    tile
        Tile protocol, such as ``"hisdiff"`` or ``"112um"``.
    near, wide
        Number of nearest spots, the spot included, of the two contexts.
    species, gene_id_type, spot_pitch_um
        Of the training slides; empty or None if unknown.
    spot_diameter_um, spot_grid
        Of the training spots; the grid, measured, is ``"square"`` or ``"hexagonal"``. None or empty if unknown.
    mpp, tile_side_um
        Pixel size of the training slides and physical side of their tiles, both in um, medians; None if unknown.
    training
        Slides, patients, preset, length and settings of the training.
    licences
        Of the encoder and the data the model was trained with.
    """

    genes: tuple[str, ...]
    target: str = "log2"
    encoder: str = "uni"
    encoder_hash: str = ""
    tile: str = "hisdiff"
    near: int = 9
    wide: int = 49
    species: str = ""
    gene_id_type: str = ""
    spot_pitch_um: float | None = None
    spot_diameter_um: float | None = None
    spot_grid: str = ""
    mpp: float | None = None
    tile_side_um: float | None = None
    training: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_kinds()
        check_one_of(self.target, TARGETS, "target")
        TileProtocol.parse(self.tile)
        check_one_of(self.spot_grid, SPOT_GRIDS, "grid of spots")
        twice = sorted({g for g in self.genes if self.genes.count(g) > 1})
        if twice or not self.genes:
            raise HisDiffError(
                f"genes are listed more than once: {', '.join(twice[:10])}" if twice else "the panel has no genes"
            )

    def _check_kinds(self) -> None:
        """A bundle of others may hold anything, which would be found out while predicting."""
        text = ("target", "encoder", "encoder_hash", "tile", "species", "gene_id_type", "spot_grid")
        wrong = [name for name in text if not isinstance(getattr(self, name), str)]
        wrong += [n for n in ("near", "wide") if type(getattr(self, n)) is not int or getattr(self, n) < 1]
        sizes = ("spot_pitch_um", "spot_diameter_um", "mpp", "tile_side_um")
        wrong += [n for n in sizes if getattr(self, n) is not None and not is_size(getattr(self, n))]
        wrong += [name for name in ("training", "licences") if not isinstance(getattr(self, name), dict)]
        known = [self.training.get(k, []) for k in ("slides", "patients")] if "training" not in wrong else []
        if not all(isinstance(v, list | tuple) and all(isinstance(name, str) for name in v) for v in known):
            wrong.append("training")
        wrong += ["genes"] * (not all(isinstance(gene, str) for gene in self.genes))
        if wrong:
            values = ", ".join(f"{name}={getattr(self, name)!r:.40}" for name in wrong)
            raise HisDiffError(f"the model's configuration has values that cannot be: {values}")


@dataclass(frozen=True)
class Scalers:
    """Shift and scale of targets (G,) and embeddings (E,), float32; a published model has zeros and ones."""

    target_shift: np.ndarray
    target_scale: np.ndarray
    embedding_shift: np.ndarray
    embedding_scale: np.ndarray

    @classmethod
    def identity(cls, n_genes: int, dim: int) -> Scalers:
        """Scalers that change nothing."""
        return cls(*(f(n, np.float32) for n in (n_genes, dim) for f in (np.zeros, np.ones)))


class HisDiff(ModelHubMixin):
    """A HisDiff model: network, gene panel, scalers, provenance, the baselines it is judged beside, and its own limits.

    What to believe of a prediction is read off `reliability`, the go / no-go list of genes, and off the scores that
    `hd.tl.predict` gives every tile by `trust`.

    Train one with `hd.tl.train`, load one with `HisDiff.load`, or bring a checkpoint of the published training script
    with `HisDiff.from_published`. Share one with `HisDiff.push_to_hub`, from where `HisDiff.load` reads it.

    Attributes
    ----------
    network
        The network that denoises (``"ddpm"``), or that draws what a regression leaves open (``"flow"``).
    config
        Panel, target, encoder, tile protocol, training.
    scalers
        Scales of targets and embeddings.
    baselines
        Ridge, depth map and training mean of the same training slides; None for a published checkpoint.
    trust
        Distance of a tile from the training tiles, and how well each gene was predicted on left-out slides; None for a
        published checkpoint.
    residual
        Of a flow: the regression it stands on, the noise that spots share, the calibration; None for the published process.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> slides = [hd.io.hest(root, "S1")]
    >>> model = hd.tl.train(slides, genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> model.save(folder + "/model")
    >>> hd.HisDiff.load(folder + "/model").fingerprint == model.fingerprint
    True
    """

    def __init__(
        self,
        network: HisDiffNetwork | FlowNetwork,
        config: ModelConfig,
        scalers: Scalers,
        baselines: Baselines | None = None,
        trust: Trust | None = None,
        residual: Residual | None = None,
    ) -> None:
        if network.n_genes != len(config.genes):
            raise HisDiffError(f"the network has {network.n_genes} genes, the panel {len(config.genes)}")
        for name, values in vars(scalers).items():
            wanted = network.n_genes if name.startswith("target") else network.embedding_dim
            if values.shape != (wanted,):
                raise HisDiffError(f"{name} of the scalers has shape {values.shape}, the network needs ({wanted},)")
        if trust is not None:
            _check_trust(trust, network)
        if isinstance(network, FlowNetwork) != (residual is not None):
            raise HisDiffError(
                "a flow needs the regression it stands on (residual=), and the published network has none"
            )
        self.network = network.eval().requires_grad_(False)
        self.config = config
        self.scalers = scalers
        self.baselines = baselines
        self.trust = trust
        self.residual = residual

    @property
    def process(self) -> str:
        """``"ddpm"``, the published process, or ``"flow"``."""
        return "ddpm" if self.residual is None else "flow"

    @classmethod
    def from_published(
        cls,
        checkpoint: str | Path,
        genes: Sequence[str],
        *,
        num_heads: int = 12,
        encoder: str = "uni",
        tile: str = "hisdiff",
        target: str = "log2",
        spot_pitch_um: float | None = None,
        spot_diameter_um: float | None = None,
    ) -> HisDiff:
        """Load a checkpoint of the original HisDiff training script; no code in the file is run.

        Parameters
        ----------
        checkpoint
            Torch file with the keys ``model``, ``opt`` and ``epoch``.
        genes
            The panel it was trained on, in order; the checkpoint does not hold it.
        num_heads
            Heads of the self-attention, which cannot be read off the weights; 12 as published.
        encoder, tile, target
            What it was trained with.
        spot_pitch_um, spot_diameter_um
            Distance and diameter of its training spots in um (100 and 55 for Visium, 200 and 100 for Spatial
            Transcriptomics); needed for maps of slides without spots.

        Raises
        ------
        HisDiffError
            If the file is not such a checkpoint, or `genes` are not as many as it has.
        """
        network = load_published_state(checkpoint, len(genes), num_heads=num_heads)
        config = ModelConfig(
            genes=tuple(genes),
            target=target,
            encoder=encoder,
            tile=tile,
            spot_pitch_um=spot_pitch_um,
            spot_diameter_um=spot_diameter_um,
            training={"preset": "published", "checkpoint": Path(checkpoint).name},
        )
        return cls(network, config, Scalers.identity(network.n_genes, network.embedding_dim))

    @property
    def genes(self) -> list[str]:
        """The gene panel."""
        return list(self.config.genes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex over all that is saved, the hash of the model in provenance."""
        digest = hashlib.sha256(json.dumps(_bundle.config_of(self), sort_keys=True).encode())
        for name, tensor in sorted(_bundle.tensors_of(self).items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def reliability(self) -> pd.DataFrame:
        """The go / no-go list: which genes were predicted on training slides that were left out.

        Returns
        -------
        One row per gene, in the order of the panel (index ``gene``): ``pcc``, the correlation of predicted and measured
        maps, the mean over the left-out slides; ``q``, the false discovery rate of that correlation against spatially
        shifted predictions; ``reliable``, q <= 0.05 and pcc >= 0.2. See `hisdiff_sd.metrics.shifted_null`.

        Raises
        ------
        HisDiffError
            If the model was not made by leaving slides out.
        """
        genes = None if self.trust is None else self.trust.genes
        if genes is None:
            raise HisDiffError(
                "this model does not know which genes are reliable: no training slide was left out; train it with "
                "hd.tl.train on two or more slides, preset 'small' and no epochs="
            )
        columns = {"pcc": genes.pcc, "q": genes.q, "reliable": genes.reliable}
        return pd.DataFrame(columns, index=pd.Index(self.genes, name="gene"))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model into the folder `path`, whole or not at all.

        The files are ``config.json``, ``model.safetensors`` and ``README.md``, a model card of what the bundle holds.

        Raises
        ------
        HisDiffError
            If `path` exists and `overwrite` is false.
        """
        _bundle.save(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> HisDiff:
        """Read a model from a folder that `save` wrote, or from a repository of the Hugging Face hub.

        Raises
        ------
        HisDiffError
            If there is no model at `path`, or its files do not fit each other.
        """
        return _bundle.load(path)

    def condition(self, slide: SlideInputs, device: torch.device, batch: int = 256) -> torch.Tensor:
        """What the network is shown of every spot, computed once and reused over steps and samples.

        (n, width) the image condition of the published network, or (n, G) the prediction of a flow's regression.
        """
        self.check_width(slide)
        if isinstance(self.network, FlowNetwork):
            assert self.residual is not None
            self.network.to(device)
            return torch.from_numpy(self.residual.base.predict(slide)).to(device)
        scaled = (slide.embedding - self.scalers.embedding_shift) / self.scalers.embedding_scale
        embedding = torch.from_numpy(scaled.astype(np.float32)).to(device)
        near, wide, near_mask, wide_mask = (
            torch.from_numpy(a).to(device)
            for a in (slide.near.index, slide.wide.index, slide.near.mask, slide.wide.mask)
        )
        self.network.to(device)
        # filled in place: results that are kept between the large contexts of batches would scatter the memory
        out = torch.empty(slide.n, self.network.config["width"], device=device)
        with torch.inference_mode():
            for rows in torch.arange(slide.n, device=device).split(batch):
                out[rows] = self.network.condition(
                    embedding[rows], embedding[near[rows]], embedding[wide[rows]], near_mask[rows], wide_mask[rows]
                )
        return out

    def check_width(self, slide: SlideInputs) -> None:
        """Raise unless the slide's embeddings are as wide as the network expects."""
        if slide.embedding.shape[1] != self.network.embedding_dim:
            raise HisDiffError(
                f"the embeddings of slide {slide.name!r} are {slide.embedding.shape[1]} wide, the model expects "
                f"{self.network.embedding_dim} ({self.config.encoder}); embed the slide with that encoder"
            )

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Bring the model and its card to a repository of the Hugging Face hub, which is made if it is not there.

        Look into the card first, and whether the licences of encoder and data allow that the model is shared.

        Parameters
        ----------
        repo_id
            The repository, such as ``"lab/breast-model"``.
        hub
            As in `huggingface_hub.ModelHubMixin.push_to_hub`: ``token``, ``private``, ``commit_message``, ``branch`` and
            others.

        Returns
        -------
        The URL of the commit.

        Raises
        ------
        HisDiffError
            If the hub does not take it: no token, no right to write, no network, no such name.
        """
        return _bundle.push(repo_id, lambda: super(HisDiff, self).push_to_hub(repo_id, **hub))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of `save`, for `huggingface_hub`."""
        return ModelCard(model_card(self))

    def _save_pretrained(self, save_directory: Path) -> None:
        _bundle.write_files(self, Path(save_directory))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **hub: Any) -> HisDiff:
        kept = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        return _bundle.load(model_id, **{k: v for k, v in hub.items() if k in kept})

    def __repr__(self) -> str:
        c = self.config
        slides = ", ".join(c.training.get("slides", [])) or "unknown slides"
        genes = None if self.trust is None else self.trust.genes
        count = "" if genes is None else f" ({int(genes.reliable.sum())} reliable)"
        return (
            f"HisDiff({self.process}, {len(c.genes)} genes{count}, target {c.target!r}, encoder {c.encoder!r}, tiles {c.tile!r}, "
            f"trained on {slides})"
        )


def _check_trust(trust: Trust, network: HisDiffNetwork | FlowNetwork) -> None:
    """Raise unless trust statistics are of the network's embeddings and genes."""
    ood, genes, dim = trust.ood, trust.genes, network.embedding_dim
    wanted: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
        "ood.shift": (ood.shift, (dim,)),
        "ood.scale": (ood.scale, (dim,)),
        "ood.axes": (ood.axes, (len(ood.variances), dim)),
    }
    if genes is not None:
        wanted |= {f"genes.{k}": (getattr(genes, k), (network.n_genes,)) for k in ("pcc", "p", "q", "reliable")}
    for name, (values, shape) in wanted.items():
        if values.shape != shape:
            raise HisDiffError(f"{name} of the trust statistics has shape {values.shape}, the network needs {shape}")
