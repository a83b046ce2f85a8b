"""Noise that spots share: fitted from residuals, drawn the same whatever is asked for, and standard normal in every spot."""

from __future__ import annotations

import numpy as np
import pytest

from hisdiff_sd._noise import SharedNoise

SIDE, PITCH, G = 16, 200.0, 5
XY = PITCH * np.column_stack(np.divmod(np.arange(SIDE * SIDE), SIDE)).astype(float)
IDS = [f"s{i}" for i in range(len(XY))]


def shares(neighbours, slide, length=300.0) -> SharedNoise:
    return SharedNoise(np.array(neighbours, np.float32), np.array(slide, np.float32), length)


MIXED = shares([0.5, 0.0, 0.8, 0.3, 0.0], [0.3, 0.6, 0.0, 0.3, 0.0])


def test_every_spot_is_standard_normal():
    drawn = MIXED.draw(0, "A", IDS[:40], XY[:40], 2000)[::2]  # every second sample is independent
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.15)
    np.testing.assert_allclose(drawn.std(0), 1, atol=0.12)


def test_correlations_are_those_asked_for():
    drawn = MIXED.draw(1, "A", [IDS[0], IDS[1], IDS[-1]], XY[[0, 1, -1]], 3000)[::2]
    near, far = (np.array([np.corrcoef(drawn[:, 0, k], drawn[:, j, k])[0, 1] for k in range(G)]) for j in (1, 2))
    decay = np.exp(-PITCH / MIXED.length_um)
    np.testing.assert_allclose(near, MIXED.slide + MIXED.neighbours * decay, atol=0.1)
    np.testing.assert_allclose(far, MIXED.slide, atol=0.1)


def test_samples_come_in_pairs_of_opposite_sign():
    drawn = MIXED.draw(0, "A", IDS[:5], XY[:5], 5)
    np.testing.assert_array_equal(drawn[1], -drawn[0])
    np.testing.assert_array_equal(drawn[3], -drawn[2])
    assert not np.allclose(drawn[2], drawn[0])


def test_noise_does_not_depend_on_other_spots_their_order_or_the_number_of_samples():
    whole = MIXED.draw(0, "A", IDS, XY, 4)
    some = np.array([200, 3, 77])
    np.testing.assert_allclose(MIXED.draw(0, "A", [IDS[i] for i in some], XY[some], 4), whole[:, some], atol=1e-6)
    np.testing.assert_allclose(MIXED.draw(0, "A", IDS, XY, 3), whole[:3], atol=1e-6)


@pytest.mark.parametrize("other", [{"seed": 1}, {"slide": "B"}])
def test_another_seed_or_slide_has_other_noise(other):
    first, second = (
        MIXED.draw(arguments["seed"], arguments["slide"], IDS[:9], XY[:9], 1)
        for arguments in ({"seed": 0, "slide": "A"}, {"seed": 0, "slide": "A"} | other)
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.6
    assert not np.isclose(first, second).any()


def test_shares_are_found_again():
    truth = shares([0.6, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.7, 0.0, 0.0], length=2 * PITCH)
    slides = [truth.draw(7, f"S{i}", IDS, XY, 1)[0] for i in range(24)]
    found = SharedNoise.fit(slides, [XY] * len(slides))
    np.testing.assert_allclose(found.neighbours, truth.neighbours, atol=0.15)
    np.testing.assert_allclose(found.slide[[0, 1, 3, 4]], 0, atol=0.1)
    assert found.slide[2] == pytest.approx(0.7, abs=0.25)
    assert found.length_um == pytest.approx(2 * PITCH, rel=0.51)


def test_independent_residuals_share_next_to_nothing():
    rng = np.random.default_rng(0)
    found = SharedNoise.fit([rng.normal(size=(len(XY), G)) for _ in range(3)], [XY] * 3)
    assert found.neighbours.max() < 0.15
    assert found.slide.max() < 0.05


def test_shares_leave_something_to_the_spot_and_few_spots_share_nothing():
    same = np.repeat(np.random.default_rng(0).normal(size=(1, G)) * 3, len(XY), 0)
    found = SharedNoise.fit([same, -same], [XY] * 2)
    assert (found.neighbours + found.slide).max() <= 0.951
    assert np.isfinite(found.draw(0, "A", IDS, XY, 2)).all()
    few = SharedNoise.fit([same[:5]], [XY[:5]])
    assert few.neighbours.max() == 0
    assert few.draw(0, "A", IDS[:5], XY[:5], 1).shape == (1, 5, G)
