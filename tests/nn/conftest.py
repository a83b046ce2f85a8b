from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hisdiff_sd.nn import HisDiffNetwork

FOLDER = Path(__file__).parent / "reference"


@dataclass(frozen=True)
class Reference:
    """What the published network and its diffusion process return, and the formula of weights and inputs."""

    arrays: dict[str, np.ndarray]
    config: dict[str, int]
    keys: list[tuple[str, tuple[int, ...]]]

    @staticmethod
    def fill(number: int, shape: tuple[int, ...], scale: float) -> Tensor:
        k = np.arange(np.prod(shape), dtype=np.float64)
        values = scale * np.sin(0.7390851 * k + 1.6180339 * (number + 1))
        return torch.from_numpy(values.astype(np.float32).reshape(shape))

    def state(self) -> dict[str, Tensor]:
        return {
            name: self.fill(number, shape, 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1)
            for number, (name, shape) in enumerate(self.keys)
        }

    def context(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.fill(1001, (3, 1024), 1), self.fill(1002, (3, 9, 1024), 1), self.fill(1003, (3, 49, 1024), 1)

    def network(self) -> HisDiffNetwork:
        config = self.config
        network = HisDiffNetwork(
            config["n_genes"],
            config["embedding_dim"],
            width=config["hidden_size"],
            depth=config["depth"],
            num_heads=config["num_heads"],
        )
        network.load_state_dict(self.state())
        return network


@pytest.fixture(scope="session")
def reference() -> Reference:
    content = json.loads((FOLDER / "hisdiff_reference.json").read_text())
    with np.load(FOLDER / "hisdiff_reference.npz") as file:
        arrays = {name: file[name] for name in file.files}
    return Reference(arrays, content["config"], [(name, tuple(shape)) for name, shape in content["keys"]])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
