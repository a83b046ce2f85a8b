"""Slides that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd.model import Scalers
from hisdiff_sd.tiles import nearest

if TYPE_CHECKING:
    from spatialdata import SpatialData


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Keep torch at its threads: numba, which scanpy uses, sets them to all cores when it starts."""
    import numba

    wanted = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(wanted)


@pytest.fixture(scope="session")
def hest_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small synthetic slides in the HEST layout: S1 and S2 of patient A, S3 of patient B. Read only."""
    return hd.datasets.synthetic(
        tmp_path_factory.mktemp("synthetic") / "hest",
        slides=("S1", "S2", "S3"),
        size_um=(1500.0, 1300.0),
        mpp=1.1,
        n_genes=40,
        seed=7,
    )


@pytest.fixture(scope="session")
def real_hest() -> Path:
    """The folder with real slides in the HEST layout, or a skip that says how to name one."""
    named = os.environ.get("HISDIFF_SD_TEST_DATA")
    if not named:
        pytest.skip("no real slides: set HISDIFF_SD_TEST_DATA to a folder in the HEST layout (wsis/, st/, metadata/)")
    for root in (Path(named), Path(named) / "her2st"):
        if (root / "wsis").is_dir():
            return root
    pytest.skip(f"HISDIFF_SD_TEST_DATA={named!r} is no folder in the HEST layout: it has no wsis/")


@pytest.fixture(scope="session")
def stores(hest_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stores of the three slides, embedded with "morphology". Read only: take `open_store` to change one."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("S1", "S2", "S3"):
        sdata = hd.io.write(hd.io.hest(hest_root, name), folder / f"{name}.zarr")
        hd.pp.embed(sdata, "morphology")
    return {name: folder / f"{name}.zarr" for name in ("S1", "S2", "S3")}


@pytest.fixture(scope="session")
def open_store(stores: dict[str, Path]) -> Callable[[str], SpatialData]:
    """Open a slide anew, cut off from its store: what is added to it or changed stays in memory."""
    import spatialdata

    def opened(name: str) -> SpatialData:
        sdata = spatialdata.read_zarr(stores[name])
        sdata.path = None
        return sdata

    return opened


@pytest.fixture(scope="session")
def panel(stores: dict[str, Path]) -> list[str]:
    """Twelve genes, chosen on S1 and S2."""
    return hd.pp.select_genes([stores["S1"], stores["S2"]])[:12]


@pytest.fixture(scope="session")
def model(stores: dict[str, Path], panel: list[str]) -> hd.HisDiff:
    """A model of S1 and S2 that was trained for two epochs only. Read only."""
    return hd.tl.train([stores["S1"], stores["S2"]], genes=panel, encoder="morphology", preset="small", epochs=2)


@pytest.fixture(scope="session")
def tiny_model(stores: dict[str, Path], panel: list[str], model: hd.HisDiff) -> hd.HisDiff:
    """The same bundle around a tiny, quick network that was trained until its samples look like counts. Read only."""
    import spatialdata

    slides = [spatialdata.read_zarr(stores[name]) for name in ("S1", "S2")]
    expression = np.concatenate([np.log2(s["table"][:, panel].X.toarray() + 1) for s in slides])
    embedding = np.concatenate([s["spots_morphology"].X for s in slides])
    scalers = Scalers(*(v for a in (expression, embedding) for v in _standard(a)))
    targets = torch.from_numpy(((expression - scalers.target_shift) / scalers.target_scale).astype(np.float32))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = hd.nn.HisDiffNetwork(len(panel), embedding.shape[1], width=16, depth=1, num_heads=2)
        bundle = hd.HisDiff(network, model.config, scalers, model.baselines)
        # what the network sees of a spot stays as it was drawn, so that it is computed once
        seen = torch.cat([bundle.condition(_inputs(s), torch.device("cpu")) for s in slides]).clone()
        network.requires_grad_(True)
        diffusion, optimiser = hd.nn.GaussianDiffusion(), torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(300):
            t, noise = torch.randint(0, 1000, (len(targets),)), torch.randn(targets.shape)
            noisy = diffusion.q_sample(targets, t, noise)
            loss = diffusion.training_loss(network.denoise(noisy, t, seen), targets, noisy, t, noise)
            optimiser.zero_grad()
            loss.loss.mean().backward()
            optimiser.step()
    network.requires_grad_(False)
    return bundle


def _standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0).astype(np.float32), values.std(0).clip(1e-3).astype(np.float32)


def _inputs(sdata: SpatialData) -> SlideInputs:
    xy = np.asarray(sdata["table"].obsm["spatial"])
    return SlideInputs("", sdata["table"].obs_names, xy, sdata["spots_morphology"].X, nearest(xy, 9), nearest(xy, 49))


@pytest.fixture(scope="session")
def predicted(open_store: Callable[[str], SpatialData], tiny_model: hd.HisDiff) -> SpatialData:
    """S3 with a prediction of 20 samples. Read only."""
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, n_samples=20, steps=5)
    return sdata
