"""Tiles are resized to the pixels that Pillow gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import _resize, resize

METHODS = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}


def noise(side: int, n: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def pillows(tile: torch.Tensor, side: int, resample: str) -> np.ndarray:
    image = Image.fromarray(tile.permute(1, 2, 0).numpy()).resize((side, side), METHODS[resample])
    return np.asarray(image).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("resample", ["lanczos", "bicubic"])
@pytest.mark.parametrize(("source", "side"), [(31, 24), (24, 31), (48, 24), (447, 224)])
def test_resize_is_pillows_to_one_grey_level(source, side, resample):
    tiles = noise(source)
    resized = resize(tiles, side, resample)
    assert resized.shape == (2, 3, side, side)
    assert resized.dtype == torch.uint8
    for tile, small in zip(tiles, resized, strict=True):
        assert np.abs(small.numpy().astype(int) - pillows(tile, side, resample)).max() <= 1


@pytest.mark.parametrize(("source", "side"), [(31, 24), (24, 31), (48, 24)])
def test_the_bicubic_of_a_gpu_is_pillows_too(source, side):
    # the way a GPU goes, on the CPU
    weights = torch.from_numpy(_resize._weights(source, side, "bicubic"))
    for tile in noise(source):
        wide = (tile.float() @ weights.T).round().clamp(0, 255)
        small = (weights @ wide).round().clamp(0, 255)
        assert np.abs(small.numpy() - pillows(tile, side, "bicubic")).max() <= 1


def test_resize_keeps_tiles_of_the_right_size():
    tiles = noise(24)
    assert resize(tiles, 24, "lanczos") is tiles


@pytest.mark.parametrize("resample", ["lanczos", "bicubic"])
def test_shrinking_is_antialiased(resample):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    tiles = torch.from_numpy(np.tile(board.astype(np.uint8), (1, 3, 1, 1)))
    inner = resize(tiles, 16, resample)[0, :, 2:-2, 2:-2]
    assert (inner.float() - 127.5).abs().max() < 6


def test_an_unknown_filter_is_named():
    with pytest.raises(HisDiffError, match="'nearest'; there are: 'lanczos', 'bicubic'"):
        resize(noise(24), 12, "nearest")
