"""Device, precision, compilation and memory of an encoder."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._precision import resolve_precision
from hisdiff_sd.encoders._registry import EncoderRow

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_bf16_is_near_fp32_and_not_the_same(tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor) -> None:
    exact = hd.encoders.load("tiny", weights=tiny_file, device="cpu", precision="fp32")
    rough = hd.encoders.load("tiny", weights=tiny_file, device="cpu", precision="bf16")
    assert (exact.precision, rough.precision) == ("fp32", "bf16")  # type: ignore[attr-defined]
    assert exact.fingerprint == rough.fingerprint
    one, other = exact(tiles), rough(tiles)
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert (one - other).norm() < 0.02 * one.norm()
    # what tells tiles apart survives too, not only what they share
    centred, rough_centred = one - one.mean(0), other - other.mean(0)
    assert (centred - rough_centred).norm() < 0.1 * centred.norm()


@pytest.mark.parametrize(
    ("told", "expected"), [({}, "fp32"), ({"amx_bf16": False}, "fp32"), ({"amx_bf16": True}, "bf16")]
)
def test_auto_is_bf16_on_processors_with_matrix_units(
    told: dict[str, bool], expected: str, tiny: EncoderRow, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISDIFF_SD_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    encoder = hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    assert encoder.precision == expected  # type: ignore[attr-defined]


def test_older_torch_does_not_tell_and_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HISDIFF_SD_PRECISION", raising=False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISDIFF_SD_PRECISION", "bf16")
    assert resolve_precision("auto", torch.device("cpu")) == "bf16"
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    monkeypatch.setenv("HISDIFF_SD_PRECISION", "half")
    with pytest.raises(HisDiffError, match=r"no precision \(environment variable HISDIFF_SD_PRECISION\) 'half'"):
        resolve_precision("auto", torch.device("cpu"))


def test_tests_are_in_fp32_on_any_processor(tiny: EncoderRow, tiny_file: Path) -> None:
    encoder = hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    assert (encoder.precision, encoder.device) == ("fp32", torch.device("cpu"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16"), ((12, 0), "bf16")]
)
def test_auto_is_bf16_on_cards_that_compute_in_it(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISDIFF_SD_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda:1")) == expected
    assert resolve_precision("fp16", torch.device("cuda:1")) == "fp16"


def test_fp16_on_the_cpu_is_refused(tiny: EncoderRow, tiny_file: Path) -> None:
    with pytest.raises(HisDiffError, match=r"'fp16' needs a GPU; on the CPU give 'fp32' or 'bf16'"):
        hd.encoders.load("tiny", weights=tiny_file, device="cpu", precision="fp16")


def test_unknown_precision_is_refused(tiny: EncoderRow, tiny_file: Path) -> None:
    with pytest.raises(HisDiffError, match=r"no precision 'float32'; there are: 'auto', 'fp32', 'bf16', 'fp16'"):
        hd.encoders.load("tiny", weights=tiny_file, device="cpu", precision="float32")


def test_compiled_model_gives_the_same(
    tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.nn.Module] = []
    compile_quickly = functools.partial(torch.compile, backend="eager")  # traced as always, without a minute of C++
    monkeypatch.setattr(torch, "compile", lambda model: [seen.append(model), compile_quickly(model)][1])
    plain = hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    assert not seen
    compiled = hd.encoders.load("tiny", weights=tiny_file, device="cpu", compile=True)
    assert len(seen) == 1
    torch.testing.assert_close(compiled(tiles[:2]), plain(tiles[:2]), rtol=1e-5, atol=1e-5)
    assert compiled.fingerprint == plain.fingerprint


class _Greedy:
    """Takes more than `most` tiles for more than the GPU holds."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        if len(tiles) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return tiles.float().mean((2, 3))


def test_out_of_memory_says_which_batch_to_try(tiles: torch.Tensor) -> None:
    encoder = hd.encoders.from_callable(_Greedy(3), name="greedy", dim=3, fingerprint="1")
    with pytest.raises(
        HisDiffError, match=r"'greedy' ran out of memory on 'cpu' .* batch of 6 tiles; try batch_size=3$"
    ) as error:
        encoder(tiles)
    assert error.value.__context__ is None  # else what did not fit would be held on to
    assert encoder(tiles[:3]).shape == (3, 3)


def test_out_of_memory_with_one_tile(tiles: torch.Tensor) -> None:
    encoder = hd.encoders.from_callable(_Greedy(0), name="greedy", dim=3, fingerprint="1")
    with pytest.raises(HisDiffError, match=r"with a single tile; free memory there, or give a smaller encoder"):
        encoder(tiles[:1])


def test_out_of_memory_in_a_model_of_the_registry(
    tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = hd.encoders.load("tiny", weights=tiny_file, device="cpu")

    def fail(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(torch.nn.functional, "layer_norm", fail)
    with pytest.raises(
        HisDiffError, match=r"'tiny' ran out of memory on 'cpu' \(fp32\) with a batch of 4 tiles.*size=2"
    ):
        encoder(tiles[:4])


@needs_gpu
def test_on_a_gpu_vectors_stay_there(tiny: EncoderRow, tiny_file: Path, tiles: torch.Tensor) -> None:
    exact = hd.encoders.load("tiny", weights=tiny_file, device="cpu")(tiles)
    for precision, tolerance in (("fp32", 0.002), ("bf16", 0.02), ("fp16", 0.005)):
        encoder = hd.encoders.load("tiny", weights=tiny_file, device="cuda", precision=precision)
        for given in (tiles, tiles.cuda()):
            vectors = encoder(given)
            assert (vectors.device.type, vectors.dtype) == ("cuda", torch.float32)
            assert (vectors.cpu() - exact).norm() < tolerance * exact.norm()
    assert encoder(tiles[:0]).device.type == "cuda"


@needs_gpu
def test_morphology_on_a_gpu_is_the_same(tiles: torch.Tensor) -> None:
    tiles = tiles.repeat(20, 1, 1, 1)  # more than are worked on at once
    got = hd.encoders.load("morphology", device="cuda")(tiles)
    assert got.device.type == "cuda"
    torch.testing.assert_close(got.cpu(), hd.encoders.load("morphology", device="cpu")(tiles), rtol=1e-3, atol=1e-3)


@needs_gpu
def test_more_tiles_than_a_gpu_holds() -> None:
    class Huge(torch.nn.Linear):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return torch.empty(len(tiles), 1 << 50, device=tiles.device)

    encoder = hd.encoders.from_callable(Huge(2, 2).cuda(), name="huge", dim=2, tile_px=4)
    with pytest.raises(
        HisDiffError, match=r"'huge' ran out of memory on 'cuda:0' .* batch of 8 tiles; try batch_size=4"
    ):
        encoder(torch.zeros(8, 3, 4, 4, dtype=torch.uint8))
