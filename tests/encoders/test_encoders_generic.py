"""Models that are not in the table: any timm model, by its name or by a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._registry import EncoderRow

SMALL = "resnet10t.c3_in1k"  # 5 million weights, ImageNet normalisation, 176 px


def whole(name: str, **arguments: Any) -> torch.nn.Module:
    """The model as it is published, with its head."""
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **arguments).eval()


def features(model: torch.nn.Module, tiles: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    from torchvision.transforms.v2.functional import normalize

    with torch.inference_mode():
        pixels = normalize(tiles / 255, mean=list(mean), std=list(std))
        return model.forward_head(model.forward_features(pixels), pre_logits=True)


def test_timm_name_with_a_local_file(tmp_path: Path, tiles: torch.Tensor) -> None:
    model = whole(SMALL)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    before = torch.get_rng_state()
    encoder = hd.encoders.load(SMALL, weights=tmp_path / "w.pth", device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.licence) == (SMALL, 512, 176, "apache-2.0")
    small = tiles[:2, :, :176, :176]
    wanted = features(model, small, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(encoder(small), wanted, rtol=1e-5, atol=1e-5)
    assert encoder(small).shape == (2, 512)


def test_normalisation_of_the_model_and_not_of_imagenet(tmp_path: Path, tiles: torch.Tensor) -> None:
    model = whole("vit_tiny_patch16_224")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    encoder = hd.encoders.load("vit_tiny_patch16_224", weights=tmp_path / "w.pth", device="cpu")
    wanted = features(model, tiles[:1], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(encoder(tiles[:1]), wanted, rtol=1e-5, atol=1e-5)


def test_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(whole(SMALL).state_dict(), tmp_path / "other.pth")
    with pytest.raises(HisDiffError, match=r"another model than 'vit_tiny_patch16_224'.*'cls_token', .* is missing"):
        hd.encoders.load("vit_tiny_patch16_224", weights=tmp_path / "other.pth", device="cpu")


def test_file_that_would_fit_after_resampling_is_refused(tmp_path: Path) -> None:
    torch.save(whole("vit_tiny_patch16_384").state_dict(), tmp_path / "w.pth")
    with pytest.raises(HisDiffError, match=r"'pos_embed' has shape \(1, 577, 192\), expected \(1, 197, 192\)"):
        hd.encoders.load("vit_tiny_patch16_224", weights=tmp_path / "w.pth", device="cpu")


def test_deeper_model_of_the_same_width_is_refused(tmp_path: Path) -> None:
    torch.save(whole("vit_tiny_patch16_224", depth=13).state_dict(), tmp_path / "w.pth")
    with pytest.raises(HisDiffError, match=r"'blocks\.12\.norm1\.weight', of shape \(192,\), is not expected"):
        hd.encoders.load("vit_tiny_patch16_224", weights=tmp_path / "w.pth", device="cpu")


def test_file_with_names_of_old_is_renamed_by_timm(tmp_path: Path, tiles: torch.Tensor) -> None:
    model = whole("convnext_atto")
    modern = {"head.fc.": "head.", "head.norm.": "norm.", ".blocks.": ".", "stem.": "downsample_layers.0."}
    modern |= {"conv_dw": "dwconv", "mlp.fc": "pwconv", ".gamma": ".gamma"}
    old = {}
    for name, tensor in model.state_dict().items():
        if ".downsample." in name:
            stage, _, rest = name.removeprefix("stages.").partition(".downsample.")
            name = f"downsample_layers.{stage}.{rest}"
        for new, former in modern.items():
            name = name.replace(new, former)
        old[name] = tensor
    torch.save(old, tmp_path / "w.pth")
    encoder = hd.encoders.load("convnext_atto", weights=tmp_path / "w.pth", device="cpu")
    wanted = features(model, tiles[:1], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(encoder(tiles[:1]), wanted, rtol=1e-4, atol=1e-5)


def test_timm_name_from_the_hub(hub: Any, tiles: torch.Tensor) -> None:
    model = whole(SMALL)
    hub.files[f"timm/{SMALL}/model.safetensors"] = save(model.state_dict())
    encoder = hd.encoders.load(SMALL, device="cpu")
    del model.fc
    assert encoder(tiles[:1, :, :176, :176]).shape == (1, 512)
    assert ("GET", f"/timm/{SMALL}/resolve/main/model.safetensors") in hub.asked


def test_timm_model_without_published_weights() -> None:
    with pytest.raises(
        HisDiffError, match=r"the hub has no weights of 'vit_giant_patch14_224'; give a file of them as"
    ):
        hd.encoders.load("vit_giant_patch14_224", device="cpu")


def test_model_that_takes_no_square_tiles() -> None:
    with pytest.raises(HisDiffError, match=r"'vit_base_patch16_sapiens2' takes images of .* not square RGB tiles"):
        hd.encoders.load("vit_base_patch16_sapiens2", device="cpu")


CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"depth": 2, "init_values": 1.0, "img_size": 112, "global_pool": "token"},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "mean": [0.7, 0.6, 0.7],
        "std": [0.2, 0.2, 0.2],
        "num_classes": 0,
        "license": "CC-BY-4.0",
    },
}


def published(**changes: Any) -> tuple[torch.nn.Module, bytes]:
    """The model of the repository, and its config.json."""
    config = {**CONFIG, **changes}
    return whole(str(config["architecture"]), num_classes=0, **config["model_args"]), json.dumps(config).encode()


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_repository_of_the_hub(prefix: str, filename: str, hub: Any, tiles: torch.Tensor, tmp_path: Path) -> None:
    model, config = published()
    torch.save(model.state_dict(), tmp_path / "w.bin")
    content = save(model.state_dict()) if filename.endswith("rs") else (tmp_path / "w.bin").read_bytes()
    hub.files |= {"lab/slides/config.json": config, f"lab/slides/{filename}": content}
    encoder = hd.encoders.load(f"{prefix}lab/slides", device="cpu")
    assert (encoder.name, encoder.dim, encoder.tile_px) == ("hf-hub:lab/slides", 192, 112)
    assert encoder.licence == "CC-BY-4.0"
    small = tiles[:2, :, :112, :112]
    wanted = features(model, small, (0.7, 0.6, 0.7), (0.2, 0.2, 0.2))
    torch.testing.assert_close(encoder(small), wanted, rtol=1e-5, atol=1e-5)
    again = hd.encoders.load(encoder.name, device="cpu")
    assert again.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("give_folder", [True, False])
def test_local_files_of_a_repository(give_folder: bool, tmp_path: Path, tiles: torch.Tensor) -> None:
    model, config = published()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(save(model.state_dict()))
    weights = tmp_path if give_folder else tmp_path / "model.safetensors"
    encoder = hd.encoders.load("hf-hub:lab/slides", weights=weights, device="cpu")
    wanted = features(model, tiles[:1, :, :112, :112], (0.7, 0.6, 0.7), (0.2, 0.2, 0.2))
    torch.testing.assert_close(encoder(tiles[:1, :, :112, :112]), wanted, rtol=1e-5, atol=1e-5)


def test_config_of_the_old_kind(tmp_path: Path, tiles: torch.Tensor) -> None:
    old = {"architecture": "resnet10t", "input_size": [3, 64, 64], "mean": [0, 0, 0], "std": [1, 1, 1], "labels": ["a"]}
    (tmp_path / "config.json").write_text(json.dumps(old))
    model = whole("resnet10t", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = hd.encoders.load("hf-hub:lab/old", weights=tmp_path, device="cpu")
    assert (encoder.tile_px, encoder.licence) == (64, "see model card")
    small = tiles[:1, :, :64, :64]
    torch.testing.assert_close(encoder(small), features(model, small, (0, 0, 0), (1, 1, 1)), rtol=1e-5, atol=1e-5)


def test_weights_without_their_config(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.bin")
    with pytest.raises(
        MissingFileError, match=r"no .*config\.json: .*'hf-hub:lab/slides'.*put that of lab/slides beside"
    ):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path / "w.bin", device="cpu")
    with pytest.raises(
        MissingFileError, match=r"no weight file .*gone; give the weight file of lab/slides, with its conf"
    ):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path / "gone", device="cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"<html>", r"config\.json cannot be read as JSON"),
        (b"[1]", r"describes no timm model \(it has no 'architecture'\).*hd\.encoders\.from_callable"),
        (b'{"model_type": "dinov2"}', r"describes no timm model"),
        (b'{"architecture": "vit_of_2031"}', r"asks for 'vit_of_2031', which timm \d.* does not have"),
    ],
)
def test_config_that_describes_no_timm_model(config: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(HisDiffError, match=message):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path, device="cpu")


def test_config_that_timm_cannot_build(tmp_path: Path) -> None:
    _, config = published()
    changed = json.loads(config)
    changed["model_args"]["no_such_argument"] = 1
    (tmp_path / "config.json").write_text(json.dumps(changed))
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HisDiffError, match=r"timm \d.* cannot build 'vit_tiny_patch16_224' for .*no_such_argument"):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path, device="cpu")


def test_repository_with_the_weights_of_another_model(tmp_path: Path) -> None:
    _, config = published()
    (tmp_path / "config.json").write_bytes(config)
    torch.save(whole(SMALL).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        HisDiffError, match=r"another model than 'hf-hub:lab/slides' \(vit_tiny_patch16_224, .*is missing"
    ):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path, device="cpu")


def test_model_that_pools_nothing(tmp_path: Path) -> None:
    model, config = published(model_args={"depth": 1, "global_pool": ""})
    (tmp_path / "config.json").write_bytes(config)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(HisDiffError, match=r"makes shape \(1, 197, 192\) of a tile.*hd\.encoders\.from_callable"):
        hd.encoders.load("hf-hub:lab/slides", weights=tmp_path, device="cpu")


def test_gated_repository_says_how_to_get_in(hub: Any) -> None:
    hub.files["lab/slides/config.json"] = b"{}"
    hub.gated = True
    with pytest.raises(
        HisDiffError, match=r"'hf-hub:lab/slides' \('config\.json' of .*gated and no token.*side by side"
    ):
        hd.encoders.load("hf-hub:lab/slides", device="cpu")


def test_revision_is_asked_for(hub: Any) -> None:
    hub.files["lab/slides/config.json"] = b"{}"
    with pytest.raises(HisDiffError):
        hd.encoders.load("hf-hub:lab/slides@v2", device="cpu")
    assert ("HEAD", "/lab/slides/resolve/v2/config.json") in hub.asked


def test_repository_of_a_row_is_that_row(tiny: EncoderRow, tiny_file: Path) -> None:
    encoder = hd.encoders.load("hf-hub:Lab/Tiny", weights=tiny_file, device="cpu")
    assert (encoder.name, encoder.licence) == ("tiny", "none")
    pinned = hd.encoders.load("hf-hub:lab/tiny@v2", weights=tiny_file, device="cpu")
    assert (pinned.name, pinned.fingerprint) == ("hf-hub:lab/tiny@v2", encoder.fingerprint)


def test_repository_of_the_part_of_a_model_is_the_whole_model(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no .*config\.json"):
        hd.encoders.load("hf-hub:timm/resnet50.tv_in1k", weights=tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:model", "hf-hub:a/b/c"])
def test_name_of_no_repository(name: str) -> None:
    with pytest.raises(HisDiffError, match=r"names no repository .*'hf-hub:owner/name'"):
        hd.encoders.load(name, device="cpu")
