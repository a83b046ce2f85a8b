"""Slides that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hisdiff_sd as hd


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
