from __future__ import annotations

import pytest
import torch

from hisdiff_sd import settings
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.setattr(settings, "device", "auto")
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


def test_auto_falls_back_to_the_settings_and_a_name_does_not(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(settings, "device", "cpu")
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_device_that_is_not_there_is_refused_with_the_way_out(name: str, no_gpu: None) -> None:
    with pytest.raises(HisDiffError, match=rf"device '{name}' is not there: torch .* sees 0 .*'auto' or one of: 'cpu'"):
        resolve_device(name)


def test_second_gpu_of_one_is_refused(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HisDiffError, match=r"'cuda:1' is not there.*sees 1 .*'cuda', 'cpu'"):
        resolve_device("cuda:1")


def test_name_that_is_no_device_is_refused(no_gpu: None) -> None:
    with pytest.raises(HisDiffError, match=r"no device 'gpu'; give 'auto' or one of: 'cpu'"):
        resolve_device("gpu")
