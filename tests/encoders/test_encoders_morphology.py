"""The built-in encoder on tiles whose content is known."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import hisdiff_sd as hd
from hisdiff_sd.encoders import TileEncoder
from hisdiff_sd.encoders._nuclei import nuclei
from hisdiff_sd.encoders._registry import ENCODERS
from hisdiff_sd.encoders._stains import colour, optical_density, separate_stains
from hisdiff_sd.encoders._texture import binary_patterns, edges, octaves, pyramid

HAEMATOXYLIN, EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])


@pytest.fixture(scope="module")
def encoder() -> TileEncoder:
    return hd.encoders.load("morphology", device="cpu")


def stained(haematoxylin: np.ndarray, eosin: np.ndarray) -> torch.Tensor:
    """Tile (1, 3, 224, 224) with these amounts of stain in every pixel."""
    unit_h, unit_e = (v / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN))
    density = unit_h[:, None, None] * haematoxylin + unit_e[:, None, None] * eosin
    return torch.from_numpy(np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8))[None]


def discs(count: int, radius: float, seed: int, within: float = 112) -> np.ndarray:
    """Haematoxylin of `count` round nuclei that do not touch, in a tile; all `within` a distance of its centre."""
    random, (y, x) = np.random.default_rng(seed), np.mgrid[:224, :224]
    placed: list[np.ndarray] = []
    while len(placed) < count:
        spot = random.uniform(2 * radius, 223 - 2 * radius, 2)
        apart = all(np.hypot(*(spot - other)) > 3.5 * radius for other in placed)
        if apart and np.hypot(*(spot - 111.5)) < within:
            placed.append(spot)
    amount = np.zeros((224, 224))
    for cy, cx in placed:
        amount += np.clip(radius + 0.5 - np.hypot(y - cy, x - cx), 0, 1)
    return 0.05 + 0.5 * amount


def tissue(seed: int) -> torch.Tensor:
    """Tile with nuclei of two sizes, fibres and noise."""
    random = np.random.default_rng(seed)
    waves = 0.1 * np.sin(np.mgrid[:224, :224][0] / random.uniform(3, 9) + random.uniform(0, 6))
    amount = discs(random.integers(10, 40), random.uniform(5, 8), seed)
    return stained(amount + 0.02 * random.random((224, 224)), 0.25 + waves + 0.02 * random.random((224, 224)))


def test_it_is_an_encoder_that_its_row_describes(encoder: TileEncoder) -> None:
    row = ENCODERS["morphology"]
    assert isinstance(encoder, TileEncoder)
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.licence) == (
        row.name,
        row.dim,
        row.tile_px,
        row.licence,
    )
    assert encoder.dim <= 300
    assert len(bytes.fromhex(encoder.fingerprint)) == 32
    assert hd.encoders.load("morphology", device="cpu").fingerprint == encoder.fingerprint


def test_vectors_do_not_depend_on_the_batch_and_repeat_exactly(encoder: TileEncoder, tiles: torch.Tensor) -> None:
    tiles = torch.cat([tiles, tissue(0), tissue(1), torch.zeros_like(tiles[:1])])
    together = encoder(tiles)
    assert together.shape == (9, encoder.dim)
    assert together.dtype == torch.float32
    assert torch.equal(together, encoder(tiles))
    torch.testing.assert_close(together, torch.cat([encoder(t[None]) for t in tiles]), rtol=0, atol=1e-5)
    assert encoder(tiles[:0]).shape == (0, encoder.dim)


patterns = st.one_of(
    hnp.arrays(np.uint8, (3, 1, 1)),
    hnp.arrays(np.uint8, (3, 2, 2), elements=st.sampled_from([0, 1, 254, 255])),
    hnp.arrays(np.uint8, (3, 7, 7)),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (3, 224, 224), np.uint8)),
)


@settings(max_examples=40, deadline=None)
@given(pattern=patterns)
def test_every_image_gives_finite_numbers_of_moderate_size(encoder: TileEncoder, pattern: np.ndarray) -> None:
    repeat = 224 // pattern.shape[-1]
    tile = torch.from_numpy(pattern.repeat(repeat, 1).repeat(repeat, 2))[None]
    vector = encoder(tile)
    assert vector.isfinite().all()
    assert vector.abs().max() < 20


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_have_no_texture(encoder: TileEncoder, value: int) -> None:
    levels = pyramid(optical_density(torch.full((1, 3, 224, 224), value, dtype=torch.uint8)))
    for part in (*octaves(levels), *edges(levels)):
        assert part.abs().max() < 0.02
    assert encoder(torch.full((1, 3, 224, 224), value, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flips_and_quarter_turns_change_nothing(encoder: TileEncoder, seed: int) -> None:
    tile = tissue(seed)
    turned = [tile.rot90(k, (2, 3)) for k in (1, 2, 3)] + [tile.flip(2), tile.flip(3), tile.transpose(2, 3)]
    before = encoder(tile)
    torch.testing.assert_close(encoder(torch.cat(turned)), before.expand(6, -1), rtol=1e-3, atol=1e-3)
    assert (encoder(tissue(seed + 10)) - before).abs().mean() > 0.03


@given(h=st.floats(0, 1), e=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_stains_are_unmixed(h: float, e: float) -> None:
    found = separate_stains(optical_density(stained(np.full((224, 224), h), np.full((224, 224), e))))[0, :, 0, 0]
    # One grey level of a dark pixel is a good deal of optical density.
    torch.testing.assert_close(found, torch.tensor([h, e, 0.0]), rtol=0, atol=0.004 + 0.015 * 10 ** (h + e - 1))


def test_share_of_tissue_over_tile_and_centre() -> None:
    y, x = np.mgrid[:224, :224] - 111.5
    ring = np.where(np.hypot(y, x) > 0.33 * 224, 0.5, 0.0)
    for eosin, whole, centre in ((ring, (ring > 0).mean(), 0), (np.full((224, 224), 0.5), 1, 1)):
        density = optical_density(stained(0 * eosin, eosin))
        *_, tile_share, centre_share = colour(density, separate_stains(density))
        assert tile_share.item() == pytest.approx(whole, abs=0.03)
        assert centre_share.item() == pytest.approx(centre, abs=0.03)


@pytest.mark.parametrize(("radius", "size"), [(4.5, 0), (8.0, 1)])
@pytest.mark.parametrize("count", [0, 10, 40])
def test_nuclei_are_counted(count: int, radius: float, size: int) -> None:
    if radius > 6:
        count //= 2
    amount = torch.from_numpy(discs(count, radius, 3)).float()[None, None]
    found = nuclei(pyramid(amount)[1])[6 * size]
    assert found.item() ** 2 / 1000 * 112**2 == pytest.approx(count, abs=0.1 * count + 0.5)


def test_nuclei_are_counted_in_the_centre_and_crowding_is_seen() -> None:
    sparse, dense = (torch.from_numpy(discs(15, 5, 3, within=w)).float()[None, None] for w in (112, 60))
    parts = [nuclei(pyramid(amount)[1]) for amount in (sparse, dense)]
    for before, after in zip(*parts, strict=True):
        assert before.shape == after.shape
    (count, centre, *_, crowding, uneven), (count2, centre2, *_, crowding2, uneven2) = (part[:6] for part in parts)
    # Of 15 nuclei within 60 pixels of the middle nearly all lie in the disc of 72 pixels.
    assert centre2.item() ** 2 * np.pi * 0.32**2 == pytest.approx(count2.item() ** 2, rel=0.1)
    assert centre < 0.8 * centre2
    assert count2.item() == pytest.approx(count.item(), rel=0.1)
    assert crowding2 > 1.3 * crowding
    assert uneven2 > uneven


def test_stripes_have_a_direction_and_noise_has_none() -> None:
    random = np.random.default_rng(0)
    maps = np.stack([0.3 + 0.2 * np.sin(np.mgrid[:224, :224][0] / 4), random.random((224, 224))])
    levels = pyramid(torch.from_numpy(maps).float()[:, None].expand(2, 2, 224, 224))
    coherence = torch.stack(edges(levels)[3::4])[..., 0]  # (level, tile)
    assert coherence.shape == (3, 2)
    assert (coherence[:2, 0] > 0.9).all()
    assert (coherence[:2, 1] < 0.5).all()


def test_energy_lies_in_the_octave_of_the_grain() -> None:
    random = np.random.default_rng(0)
    grains = [np.kron(random.random((224 // s, 224 // s)), np.ones((s, s))) for s in (1, 4, 16)]
    energy = torch.stack(octaves(pyramid(torch.from_numpy(np.stack(grains)).float()[:, None].repeat(1, 2, 1, 1)))[::4])
    peak = energy[..., 0].argmax(0)
    assert peak.tolist() == sorted(set(peak.tolist()))


def test_binary_patterns_are_shares() -> None:
    levels = pyramid(optical_density(tissue(2)))
    for part in binary_patterns(levels):
        assert part.shape == (1, 10)
        assert part.square().sum().item() == pytest.approx(1, abs=1e-4)
    flat = binary_patterns(pyramid(torch.full((1, 1, 224, 224), 0.3)))[0]
    assert flat[0, 0].item() == pytest.approx(1, abs=1e-4)
