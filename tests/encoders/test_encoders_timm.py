from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._registry import ENCODERS, EncoderRow

Make = Callable[..., torch.nn.Module]


def expected(model: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """Timm run directly on ImageNet-normalised tiles."""
    from torchvision.transforms.v2.functional import normalize

    with torch.inference_mode():
        return model(normalize(tiles / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))


@pytest.mark.slow  # a ViT-L, twice
def test_uni_from_disk_is_timm_run_directly(tmp_path: Path, tiles: torch.Tensor, make_model: Make) -> None:
    """UNI's exact architecture in UNI's file format; LayerScale is 1, for at 1e-5 all tiles would look alike."""
    model = make_model(ENCODERS["uni"])
    for block in model.blocks:
        torch.nn.init.ones_(block.ls1.gamma)
        torch.nn.init.ones_(block.ls2.gamma)
    path = tmp_path / "pytorch_model.bin"
    try:
        torch.save(model.state_dict(), path)
        wanted = expected(model, tiles[:1])
        del model
        encoder = hd.encoders.load("uni", weights=path, device="cpu")
        got = encoder(tiles[:2])
    finally:
        path.unlink()
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.licence) == ("uni", 1024, 224, "CC-BY-NC-ND-4.0")
    assert got.shape == (2, 1024)
    assert got.dtype == torch.float32
    assert got.isfinite().all()
    assert (got[0] - got[1]).abs().mean() > 0.05
    torch.testing.assert_close(got[:1], wanted, rtol=1e-4, atol=1e-5)


def test_small_model_takes_the_same_way(
    tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor, make_model: Make
) -> None:
    got = hd.encoders.load("tiny", weights=str(tiny_file), device="cpu")(tiles)
    torch.testing.assert_close(got, expected(make_model(tiny), tiles), rtol=1e-5, atol=1e-5)
    assert got.std(0).mean() > 0.01


def test_tile_does_not_depend_on_its_batch(tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor) -> None:
    encoder = hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    together = encoder(tiles)
    torch.testing.assert_close(together, torch.cat([encoder(t[None]) for t in tiles]), rtol=0, atol=1e-5)
    assert torch.equal(together, encoder(tiles))
    assert encoder(tiles[:0]).shape == (0, 192)


def test_loading_leaves_the_random_state_alone(tiny: EncoderRow, tiny_file: Path) -> None:
    before = torch.get_rng_state()
    hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_pooling_skips_registers(
    pooling: str,
    tiny: EncoderRow,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiles: torch.Tensor,
    make_model: Make,
) -> None:
    dim = 384 if pooling == "cls+mean" else 192
    row = dataclasses.replace(tiny, pooling=pooling, dim=dim, timm_args={**tiny.timm_args, "reg_tokens": 3})
    monkeypatch.setitem(ENCODERS, "tiny", row)
    model = make_model(row)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    got = hd.encoders.load("tiny", weights=tmp_path / "w.pth", device="cpu")(tiles[:2])
    model.forward_head = lambda tokens: tokens
    tokens = expected(model, tiles[:2])
    assert tokens.shape == (2, 1 + 3 + 196, 192)
    parts = {"cls": [tokens[:, 0]], "mean": [tokens[:, 4:].mean(1)]}
    parts["cls+mean"] = parts["cls"] + parts["mean"]
    torch.testing.assert_close(got, torch.cat(parts[pooling], 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_every_torch_file_gives_the_same_encoder(
    suffix: str, nest: str | None, tiny: EncoderRow, tiny_file: Path, tmp_path: Path
) -> None:
    tensors, path = torch.load(tiny_file), tmp_path / f"weights{suffix}"
    content = {nest: tensors, "epoch": 3} if nest else tensors
    torch.save(content, path, _use_new_zipfile_serialization=suffix != ".pt")
    encoder = hd.encoders.load("tiny", weights=path, device="cpu")
    assert encoder.fingerprint == hd.encoders.load("tiny", weights=tiny_file, device="cpu").fingerprint


def test_safetensors_give_the_same_encoder(tiny: EncoderRow, tiny_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(torch.load(tiny_file), tmp_path / "model.safetensors")
    encoder = hd.encoders.load("tiny", weights=tmp_path / "model.safetensors", device="cpu")
    assert encoder.fingerprint == hd.encoders.load("tiny", weights=tiny_file, device="cpu").fingerprint


def test_fingerprint_changes_with_one_number(tiny: EncoderRow, tiny_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(tiny_file)
    tensors["blocks.1.mlp.fc1.bias"][3] += 1e-3
    torch.save(tensors, tmp_path / "other.bin")
    one, other = (hd.encoders.load("tiny", weights=p, device="cpu") for p in (tiny_file, tmp_path / "other.bin"))
    assert len(one.fingerprint) == 64
    assert one.fingerprint != other.fingerprint


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError, match=r"no weight file .*gone\.bin; give the file 'pytorch_model\.bin' of Mahm"
    ):
        hd.encoders.load("uni", weights=tmp_path / "gone.bin", device="cpu")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"text", r"notes\.txt is no weight file by its ending '\.txt'.*\.safetensors are read"),
        ("cut.bin", b"PK\x03\x04half of it", r"cut\.bin \(14 bytes\) cannot be read as a weight file: "),
        ("page.bin", b"<html>log in</html>", r"page\.bin \(19 bytes\) cannot be read as a weight file: "),
        ("empty.pth", b"", r"empty\.pth \(0 bytes\) cannot be read as a weight file: "),
        ("page.safetensors", b"<html>log in</html>", r"page\.safetensors \(19 bytes\) cannot be read as a weight file"),
    ],
)
def test_file_that_is_no_weight_file_is_refused(
    name: str, content: bytes, message: str, tiny: EncoderRow, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HisDiffError, match=message):
        hd.encoders.load("tiny", weights=tmp_path / name, device="cpu")


def test_folder_is_refused(tiny: EncoderRow, tmp_path: Path) -> None:
    with pytest.raises(HisDiffError, match=r"is a folder; give the file 'pytorch_model\.bin' of lab/tiny"):
        hd.encoders.load("tiny", weights=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("content", "holds"),
    [({"epoch": 3, "loss": 0.5}, r"a dict with 'epoch', 'loss'"), (torch.ones(3), "a Tensor"), ([1, 2], "a list")],
)
def test_file_without_named_tensors_is_refused(content: object, holds: str, tiny: EncoderRow, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(HisDiffError, match=rf"w\.pt is not a weight file: it holds {holds}, not named tensors"):
        hd.encoders.load("tiny", weights=tmp_path / "w.pt", device="cpu")


class _Malicious:
    """Runs a call when it is unpacked without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tiny: EncoderRow, tmp_path: Path) -> None:
    torch.save({"state_dict": _Malicious(tmp_path / "ran")}, tmp_path / "w.bin")
    with pytest.raises(HisDiffError, match="cannot be read as a weight file"):
        hd.encoders.load("tiny", weights=tmp_path / "w.bin", device="cpu")
    assert not (tmp_path / "ran").exists()


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["blocks.1.ls1.gamma"]


def _misshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["patch_embed.proj.weight"] = torch.zeros(192, 3, 14, 14)


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = torch.zeros(1000, 192)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_drop, r"'blocks\.1\.ls1\.gamma', of shape \(192,\), is missing"),
        (_misshape, r"'patch_embed\.proj\.weight' has shape \(192, 3, 14, 14\), expected \(192, 3, 16, 16\)"),
        (_add, r"'head\.weight', of shape \(1000, 192\), is not expected"),
    ],
)
def test_another_architecture_is_refused_by_its_first_tensor(
    spoil: Callable[[dict[str, torch.Tensor]], None], problem: str, tiny: EncoderRow, tiny_file: Path
) -> None:
    tensors = torch.load(tiny_file)
    spoil(tensors)
    torch.save(tensors, tiny_file)
    with pytest.raises(
        HisDiffError, match=rf"another model than 'tiny' \(vit_tiny_patch16_224, .*{problem}\. Give the"
    ):
        hd.encoders.load("tiny", weights=tiny_file, device="cpu")


@pytest.mark.parametrize(
    "tiles",
    [
        torch.zeros(1, 3, 224, 224),
        torch.zeros(1, 224, 224, 3, dtype=torch.uint8),
        torch.zeros(3, 224, 224, dtype=torch.uint8),
        torch.zeros(1, 3, 256, 256, dtype=torch.uint8),
    ],
)
@pytest.mark.parametrize("name", ["tiny", "morphology"])
def test_wrong_tiles_are_refused(name: str, tiles: torch.Tensor, tiny: EncoderRow, tiny_file: Path) -> None:
    encoder = hd.encoders.load(name, weights=tiny_file if name == "tiny" else None, device="cpu")
    with pytest.raises(HisDiffError, match=rf"encoder '{name}' takes uint8 RGB tiles of shape \(B, 3, 224, 224\), got"):
        encoder(tiles)
