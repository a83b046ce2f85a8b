"""The test slide as a new scanner, or shallower sequencing, would show it, and the errors of fitted rows on it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import spatialdata
import torch
from PIL import Image
from scipy import sparse
from scipy.ndimage import gaussian_filter
from trust import DYES, density, light

import hisdiff_sd as hd
from hisdiff_sd._data import measured, slide_inputs
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.tiles import TileProtocol
from hisdiff_sd.tl._depth import COUNTS, at_depth
from hisdiff_sd.tl._gather import NEAR, WIDE

STAIN = np.array([0.75, 1.3, 1.0])  # times haematoxylin, eosin and what is left, in optical density
JPEG_QUALITY = 50
BLUR_PX = 1.5  # standard deviation, in px of the tile
RESOLUTIONS = (0.8, 1.25)  # px per um of the new scanner by those of the old one
DEPTH = 0.1
AS_IT_IS, SHALLOW = "as it is", "a tenth of the depth"
TOLD = "default, told"  # the depth: depth= of hd.tl.predict
ROWS = ("default", "ridge", "ridge_context", "mean")
EXPLAINED = {
    "stain": f"optical densities of haematoxylin and eosin times {STAIN[0]} and {STAIN[1]}",
    "resolution": "px per um times 0.8 or 1.25: a tile of the published protocol, 224 level-0 px, shows more or less tissue",
    "jpeg": f"tiles through JPEG of quality {JPEG_QUALITY}",
    "blur": f"Gaussian of {BLUR_PX} px",
    SHALLOW: "measured counts thinned binomially to a tenth; the image stays",
}

Function = Callable[[np.ndarray], np.ndarray]


def restained(tiles: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) uint8 tiles with other strengths of the two stains."""
    dyes = DYES / np.linalg.norm(DYES, axis=1, keepdims=True)
    rest = np.cross(*dyes)
    space = np.vstack([dyes, rest / np.linalg.norm(rest)])
    return light(density(tiles) @ (np.linalg.inv(space) @ (STAIN[:, None] * space)).astype(np.float32))


def compressed(tiles: np.ndarray) -> np.ndarray:
    def one(tile: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))

    return np.stack([one(t) for t in tiles])


def blurred(tiles: np.ndarray) -> np.ndarray:
    return gaussian_filter(tiles, (0, BLUR_PX, BLUR_PX, 0))


CHANGES: dict[str, Function] = {"stain": restained, "jpeg": compressed, "blur": blurred}


def shifted_inputs(store: Path, encoder: str) -> dict[str, SlideInputs]:
    """The slide as it is, and as other scanners would show it, embedded anew; the store stays as it is."""
    loaded = hd.encoders.load(encoder)
    sdata = spatialdata.read_zarr(store)
    sdata.path = None  # what is made here stays in memory
    mpp, spot_um = slide_attrs(sdata)["mpp"], slide_attrs(sdata)["spot_diameter_um"]
    changes: dict[str, tuple[Function, float | None]] = {AS_IT_IS: (lambda tiles: tiles, None)}
    changes |= {name: (change, None) for name, change in CHANGES.items()}
    for factor in RESOLUTIONS:
        side_px = TileProtocol().side_px(spot_um / mpp * factor, mpp / factor)
        changes[f"resolution x{factor}"] = (lambda tiles: tiles, side_px * mpp / factor)
    out = {}
    for i, (name, (change, tile_um)) in enumerate(changes.items()):
        function = hd.encoders.from_callable(
            lambda tiles, change=change: loaded(_changed(tiles, change)).cpu(),
            name=f"shift{i}",
            dim=loaded.dim,
            tile_px=loaded.tile_px,
            fingerprint=f"{loaded.fingerprint} {name}",
        )
        hd.pp.embed(sdata, function, tile_um=tile_um)
        out[name] = slide_inputs(sdata, f"spots_shift{i}", near=NEAR, wide=WIDE)
    return out


def _changed(tiles: torch.Tensor, change: Function) -> torch.Tensor:
    pixels = np.ascontiguousarray(tiles.permute(0, 2, 3, 1).numpy())
    return torch.from_numpy(np.ascontiguousarray(change(pixels).transpose(0, 3, 1, 2)))


def shallow(store: Path, inputs: SlideInputs, genes: list[str], target: str, seed: int) -> Measured:
    """What would have been measured with a tenth of the counts."""
    table = spatialdata.read_zarr(store)["table"].copy()
    counts = sparse.csr_matrix(table.X)
    counts.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), DEPTH).astype(np.float32)
    table.X = counts
    return measured(table, inputs.index, genes, target, inputs.name)


def shift_errors(
    fitted: Mapping[str, object],
    inputs: Mapping[str, SlideInputs],
    truth: Measured,
    thinned: Measured,
    target: str,
    n_samples: int,
    seed: int,
) -> pd.DataFrame:
    """MSE of the mean of the samples and its parts, a line for every change of the slide and row."""
    lines = []
    for name, slide in inputs.items():
        for row, fit in fitted.items():
            drawn = fit.samples(slide, n_samples, seed)
            cases = [(name, row, drawn, truth)]
            if name == AS_IT_IS:
                cases.append((SHALLOW, row, drawn, thinned))
                if row == "default" and target == COUNTS:
                    told = at_depth(drawn, DEPTH, seed, slide.name, [str(i) for i in slide.index])
                    cases.append((SHALLOW, TOLD, told, thinned))
            for case, model, samples, true in cases:
                predicted = samples.mean(0, dtype=np.float64)
                parts = hd.metrics.error_split(predicted, true.y)
                lines.append({"shift": case, "model": model, "mse": hd.metrics.mse(predicted, true.y), **parts})
    return pd.DataFrame(lines).sort_values("shift", key=lambda shift: shift == SHALLOW, kind="stable")


def below_mean(errors: pd.DataFrame) -> dict[str, dict]:
    """Whether a row stays better than the training mean whatever the scanner, and where it is worst."""
    scanners = errors[errors["shift"] != SHALLOW].pivot(index="shift", columns="model", values="mse")
    worst = {row: str(scanners[row].idxmax()) for row in scanners if row != "mean"}
    return {
        row: {
            "always": bool((scanners[row] < scanners["mean"]).all()),
            "worst": shift,
            "mse": float(scanners.loc[shift, row]),
            "mse_of_mean": float(scanners.loc[shift, "mean"]),
        }
        for row, shift in worst.items()
    }
