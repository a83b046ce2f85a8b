"""The table of encoders: where the weights of each lie, how its model is built, how a tile becomes its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_OPTIMUS_MEAN = (0.707223, 0.578729, 0.703617)
_OPTIMUS_STD = (0.211883, 0.230117, 0.177517)
# Layers by name: a table need not import timm. They are looked up in timm.layers and torch.nn when a model is built.
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True)
class EncoderRow:
    """One encoder.

    Attributes
    ----------
    name, dim, licence, tile_px
        As of `TileEncoder`; a dim of 0 is asked of the model.
    hub_id, filename, gated
        Repository on the Hugging Face hub (``owner/name``, or ``owner/name@revision``), its weight file (empty: the
        usual names are tried), and whether terms must be accepted first. Without `hub_id` there is nothing to download.
    loader
        ``"timm"``, ``"transformers"`` or ``"built in"``.
    timm_name, timm_args
        Model and arguments of `timm.create_model`.
    unused
        Beginnings of the names of tensors that the weight file has and the model does not need.
    pooling
        How tokens become a vector: ``"cls"``, ``"mean"`` (of patch tokens or of a feature map), ``"cls+mean"``, or
        ``"model"`` if the model does it.
    mean, std
        Of red, green and blue between 0 and 1, for normalisation.
    """

    name: str
    dim: int
    licence: str
    tile_px: int = 224
    hub_id: str | None = None
    filename: str = ""
    gated: bool = False
    loader: str = "timm"
    timm_name: str = ""
    timm_args: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    pooling: str = "cls"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def source(self) -> str:
        """The weight file, in words."""
        file = f"the file {self.filename!r}" if self.filename else "the weight file"
        beside = ", with its config.json beside it" if self.needs_config else ""
        return f"{file} of {self.hub_id or self.timm_name}{beside}"

    @property
    def needs_config(self) -> bool:
        """Whether config.json of the repository, and not the row, says how the model is built."""
        return self.loader == "transformers" or (self.name.startswith("hf-hub:") and self.pooling == "model")


_ROWS = (
    EncoderRow(
        name="uni",
        dim=1024,
        licence="CC-BY-NC-ND-4.0",
        hub_id="MahmoodLab/UNI",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_large_patch16_224",
        timm_args={"init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    ),
    EncoderRow(
        name="uni2",
        dim=1536,
        licence="CC-BY-NC-ND-4.0",
        hub_id="MahmoodLab/UNI2-h",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_giant_patch14_224",
        timm_args={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "num_classes": 0,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
    ),
    EncoderRow(
        name="virchow2",
        dim=2560,
        licence="CC-BY-NC-ND-4.0",
        hub_id="paige-ai/Virchow2",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_huge_patch14_224",
        timm_args={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        pooling="cls+mean",
    ),
    *(
        EncoderRow(
            name=name,
            dim=1536,
            licence=licence,
            hub_id=hub_id,
            filename="pytorch_model.bin",
            gated=True,
            timm_name="vit_giant_patch14_reg4_dinov2",
            timm_args={
                "img_size": 224,
                "init_values": 1e-5,
                "num_classes": 0,
                "global_pool": "token",
                "dynamic_img_size": False,
            },
            mean=_OPTIMUS_MEAN,
            std=_OPTIMUS_STD,
        )
        for name, hub_id, licence in (
            ("hoptimus0", "bioptimus/H-optimus-0", "Apache-2.0"),
            ("hoptimus1", "bioptimus/H-optimus-1", "CC-BY-NC-ND-4.0"),
        )
    ),
    EncoderRow(
        name="h0mini",
        dim=768,
        licence="CC-BY-NC-ND-4.0",
        hub_id="bioptimus/H0-mini",
        filename="model.safetensors",
        gated=True,
        timm_name="vit_base_patch14_reg4_dinov2",
        timm_args={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "reg_tokens": 4,
            "mlp_ratio": 5.33334,
            "global_pool": "",
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        mean=_OPTIMUS_MEAN,
        std=_OPTIMUS_STD,
    ),
    EncoderRow(
        name="gigapath",
        dim=1536,
        licence="Apache-2.0",
        hub_id="prov-gigapath/prov-gigapath",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_giant_patch14_dinov2",
        timm_args={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "num_classes": 0,
        },
    ),
    EncoderRow(
        name="phikon2",
        dim=1024,
        licence="Owkin non-commercial",
        hub_id="owkin/phikon-v2",
        filename="model.safetensors",
        loader="transformers",
    ),
    EncoderRow(
        name="resnet50",
        dim=1024,
        licence="BSD-3-Clause",
        hub_id="timm/resnet50.tv_in1k",
        filename="model.safetensors",
        timm_name="resnet50.tv_in1k",
        timm_args={"features_only": True, "out_indices": (3,)},
        unused=("layer4.", "fc."),
        pooling="mean",
    ),
    EncoderRow(name="morphology", dim=162, licence="BSD-3-Clause", loader="built in", pooling=""),
)

ENCODERS: dict[str, EncoderRow] = {row.name: row for row in _ROWS}
