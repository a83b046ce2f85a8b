"""Functions and torch modules of a user as encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

from_callable = hd.encoders.from_callable


def mean_rgb(tiles: torch.Tensor) -> torch.Tensor:
    return tiles.double().mean((2, 3))


class Small(torch.nn.Module):
    """A module whose answer changes in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(tiles.float().mean((2, 3)) / 255))


def test_function_is_an_encoder(tiles: torch.Tensor) -> None:
    encoder = from_callable(mean_rgb, name="mean_rgb", dim=3, fingerprint="1", licence="MIT")
    assert isinstance(encoder, hd.encoders.TileEncoder)
    assert hd.encoders.load(encoder) is encoder
    assert (encoder.name, encoder.dim, encoder.tile_px) == ("mean_rgb", 3, 224)
    assert (encoder.fingerprint, encoder.licence) == ("1", "MIT")
    assert (encoder.device, encoder.precision) == (torch.device("cpu"), "fp32")
    got = encoder(tiles)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, tiles.float().mean((2, 3)))
    assert encoder(tiles[:0]).shape == (0, 3)


def test_function_may_return_an_array(tiles: torch.Tensor) -> None:
    def with_numpy(some: torch.Tensor) -> np.ndarray:
        return some.numpy().mean((2, 3))

    encoder = from_callable(with_numpy, name="with_numpy", dim=3, fingerprint="1")
    torch.testing.assert_close(encoder(tiles), tiles.float().mean((2, 3)), rtol=1e-6, atol=1e-4)


def test_module_is_evaluated_and_known_by_its_tensors(tiles: torch.Tensor) -> None:
    module = Small()
    encoder = from_callable(module, name="small", dim=4)
    assert torch.equal(encoder(tiles), encoder(tiles))
    assert not encoder(tiles).requires_grad
    assert len(bytes.fromhex(encoder.fingerprint)) == 32
    assert from_callable(module, name="again", dim=4).fingerprint == encoder.fingerprint
    with torch.no_grad():
        module.layer.bias[0] += 1
    assert from_callable(module, name="small", dim=4).fingerprint != encoder.fingerprint
    assert from_callable(module, name="small", dim=4, fingerprint="2").fingerprint == "2"


@pytest.mark.parametrize("function", [mean_rgb, torch.nn.Flatten()])
def test_what_has_no_weights_needs_a_fingerprint(function: Any) -> None:
    with pytest.raises(HisDiffError, match=r"'plain' has no weights .*give fingerprint="):
        from_callable(function, name="plain", dim=3)


@pytest.mark.parametrize("name", ["uni", "morphology", "", "hf-hub:lab/model"])
def test_name_of_another_encoder_is_refused(name: str) -> None:
    with pytest.raises(HisDiffError, match=rf"the name '{name}' is that of another encoder or of none"):
        from_callable(mean_rgb, name=name, dim=3, fingerprint="1")


@pytest.mark.parametrize("sizes", [{"dim": 0}, {"dim": 3, "tile_px": -1}])
def test_size_of_nothing_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(HisDiffError, match=r"'mean_rgb': dim=.* must be positive"):
        from_callable(mean_rgb, name="mean_rgb", fingerprint="1", **sizes)


def test_vectors_of_another_length_are_refused(tiles: torch.Tensor) -> None:
    encoder = from_callable(mean_rgb, name="mean_rgb", dim=4, fingerprint="1")
    with pytest.raises(
        HisDiffError, match=r"'mean_rgb' returned shape \(6, 3\) for 6 tiles; its dim is 4, so \(6, 4\)"
    ):
        encoder(tiles)


def test_tiles_of_another_size_are_refused(tiles: torch.Tensor) -> None:
    encoder = from_callable(mean_rgb, name="mean_rgb", dim=3, tile_px=96, fingerprint="1")
    with pytest.raises(HisDiffError, match=r"'mean_rgb' takes uint8 RGB tiles of shape \(B, 3, 96, 96\)"):
        encoder(tiles)
    assert encoder(tiles[..., :96, :96]).shape == (6, 3)
