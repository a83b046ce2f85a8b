"""A published checkpoint becomes a model: its numbers, what it says it is, and what does not fit it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd.tiles import Context

CPU = torch.device("cpu")


# The published network and what it returns, by the formula that the reference was made with.
REFERENCE = Path(__file__).parent / "nn" / "reference"


def fill(number: int, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    k = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(
        (scale * np.sin(0.7390851 * k + 1.6180339 * (number + 1))).astype(np.float32).reshape(shape)
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A file as the original training script writes it."""
    keys = json.loads((REFERENCE / "hisdiff_reference.json").read_text())["keys"]
    state = {
        name: fill(number, tuple(shape), 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1)
        for number, (name, shape) in enumerate(keys)
    }
    path = tmp_path_factory.mktemp("published") / "checkpoint_1499.pt"
    torch.save({"model": state, "opt": {"state": {}, "param_groups": []}, "epoch": 1499}, path)
    return path


PUBLISHED_GENES = [f"g{i}" for i in range(12)]


def test_a_published_checkpoint_gives_the_published_numbers(published):
    expected = np.load(REFERENCE / "hisdiff_reference.npz")
    model = hd.HisDiff.from_published(published, PUBLISHED_GENES, num_heads=4)
    spot, near, wide = fill(1001, (3, 1024), 1), fill(1002, (3, 9, 1024), 1), fill(1003, (3, 49, 1024), 1)
    with torch.no_grad():
        forward = model.network(fill(1000, (3, 1, 12), 1.5), torch.tensor([0, 400, 999]), spot, near, wide)
    np.testing.assert_allclose(forward, expected["forward"], rtol=0, atol=1e-5 * np.abs(expected["forward"]).max())

    # the same spots and neighbours as one slide: rows 0-2 the spots, then their near, then their wide context
    embedding = torch.cat([spot, near.reshape(-1, 1024), wide.reshape(-1, 1024)]).numpy()
    n = len(embedding)
    contexts = []
    for first, k in ((3, 9), (30, 49)):
        index, mask = np.zeros((n, k), np.int64), np.ones((n, k), bool)
        index[:3] = first + np.arange(3 * k).reshape(3, k)
        contexts.append(Context(index, mask))
    slide = SlideInputs("S", pd.RangeIndex(n), np.zeros((n, 2)), embedding, *contexts)
    condition = model.condition(slide, CPU)[:3]
    np.testing.assert_allclose(
        condition, expected["condition"], rtol=0, atol=1e-5 * np.abs(expected["condition"]).max()
    )


def test_a_published_model_says_what_it_is(published, tmp_path):
    model = hd.HisDiff.from_published(published, PUBLISHED_GENES, num_heads=4, tile="112um", target="log2")
    assert (model.config.encoder, model.config.tile, model.config.target) == ("uni", "112um", "log2")
    assert model.genes == PUBLISHED_GENES
    assert model.baselines is None
    assert "unknown slides" in repr(model)
    model.save(tmp_path / "model")
    assert hd.HisDiff.load(tmp_path / "model").fingerprint == model.fingerprint


def test_heads_of_a_published_model_are_part_of_its_fingerprint(published):
    four, two = (hd.HisDiff.from_published(published, PUBLISHED_GENES, num_heads=h) for h in (4, 2))
    assert four.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("genes", "options", "message"),
    [
        (PUBLISHED_GENES[:11], {}, "was trained on 12 genes, but the panel has 11"),
        ([*PUBLISHED_GENES, "more"], {}, "was trained on 12 genes, but the panel has 13"),
        (["twice", *PUBLISHED_GENES[:10], "twice"], {}, "genes are listed more than once: twice"),
        ([], {}, "12 genes, but the panel has 0"),
        (PUBLISHED_GENES, {"num_heads": 7}, "num_heads 7 does not divide"),
        (PUBLISHED_GENES, {"target": "counts"}, "no target 'counts'; there are: 'log2', 'cp10k'"),
        (PUBLISHED_GENES, {"tile": "big"}, "no tile protocol 'big'"),
    ],
)
def test_a_published_checkpoint_that_does_not_fit_is_refused(published, genes, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.HisDiff.from_published(published, genes, **{"num_heads": 4, **options})
