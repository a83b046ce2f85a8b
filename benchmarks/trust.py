"""Whether a model knows what not to believe: the out-of-distribution score of tiles on slides that were tampered with.

    python benchmarks/trust.py --json FILE --figure PNG

A model of the default preset is trained on three synthetic slides. A fourth one is predicted as it is, in the colours of another
laboratory, out of focus in its left half, and with pen, folds and holes (bare glass where tissue was measured). Printed
are the AUC of the score for tiles of which at least a quarter was painted against untouched tiles of the same slide, the
share of tiles that is rejected, and the risk-coverage table: the mean squared error (target log2) of the tiles that are
left when those of the highest score are rejected.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import spatialdata
import tifffile
from _common import write_json
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from spatialdata.models import Image2DModel

import hisdiff_sd as hd
from hisdiff_sd._data import measured, slide_inputs

TRAIN, TEST = ("S1", "S2", "S3"), "S4"
MPP = 0.7
TILE_PX = 224
COVERAGE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
PAINTED = 0.25  # least part of a tile that makes it a painted one

# optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001), and those of a laboratory that differs
DYES = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
OTHER_DYES = np.array([[0.55, 0.75, 0.36], [0.25, 0.85, 0.45]])
OTHER_STRENGTH = np.array([0.8, 1.35])
PENS = [(20, 60, 160), (20, 120, 60), (25, 25, 30)]

Tampered = tuple[np.ndarray, dict[str, np.ndarray]]  # an image, and masks of what was done to it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--figure", type=Path, help="file to draw the risk-coverage curves in")
    parser.add_argument("--epochs", type=int, help="of the training; chosen by leaving slides out by default")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        root = hd.datasets.synthetic(Path(work) / "hest", slides=(*TRAIN, TEST), mpp=MPP, seed=options.seed)
        training = [hd.io.hest(root, name) for name in TRAIN]
        model = hd.tl.train(training, encoder="morphology", epochs=options.epochs, seed=options.seed)
        image = tifffile.imread(root / "wsis" / f"{TEST}.tif")
        slides = {}
        for name, (tampered, masks) in tamper(image, options.seed).items():
            sdata = with_image(hd.io.hest(root, TEST), tampered)
            slides[name] = judge(sdata, masks, model, options)
    figures = {name: summary(tiles) for name, tiles in slides.items()}
    for name, tiles in slides.items():
        print(f"\n{name}: {figures[name]['trusted']:.2f} of the tiles are trusted, AUC {figures[name]['auc']}")
        print(risk_coverage(tiles).round(3).to_string(index=False))
    if options.figure:
        draw(slides).savefig(options.figure, dpi=150)
    write_json(options.json, figures)


def tamper(image: np.ndarray, seed: int) -> dict[str, Tampered]:
    """The slide as it is, and in three ways that it should not be."""
    height, width = image.shape[:2]
    blurred, left = image.copy(), np.zeros((height, width), bool)
    left[:, : width // 2] = True
    blurred[left] = gaussian_filter(image, (6 / MPP, 6 / MPP, 0))[left]
    return {
        "as it is": (image, {}),
        "another stain": (restained(image), {}),
        "out of focus": (blurred, {"blur": left}),
        "pen, folds, holes": painted(image, np.random.default_rng(seed)),
    }


def density(image: np.ndarray) -> np.ndarray:
    return -np.log10((image.astype(np.float32) + 1) / 256)


def light(od: np.ndarray) -> np.ndarray:
    return np.clip(np.round(256 * 10**-od - 1), 0, 255).astype(np.uint8)


def restained(image: np.ndarray) -> np.ndarray:
    """The same dyes in the same places, in other colours and strengths."""
    dyes, other = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in (DYES, OTHER_DYES))
    rest = np.cross(*dyes) / np.linalg.norm(np.cross(*dyes))
    amounts = density(image) @ np.linalg.inv(np.vstack([dyes, rest])).astype(np.float32)
    return light(amounts @ np.vstack([other * OTHER_STRENGTH[:, None], rest]).astype(np.float32))


def painted(image: np.ndarray, rng: np.random.Generator) -> Tampered:
    """Strokes of three pens, two folds (the tissue lies double), a hole of bare glass."""
    height, width = image.shape[:2]

    def line(points: list[tuple[float, float]], um: float) -> np.ndarray:
        canvas = Image.new("1", (width, height))
        corners = [(x * width, y * height) for x, y in points]
        ImageDraw.Draw(canvas).line(corners, fill=1, width=round(um / MPP), joint="curve")
        return np.asarray(canvas)

    out = image.copy()
    strokes = [[(0.05, 0.25), (0.3, 0.35)], [(0.15, 0.5), (0.35, 0.6), (0.25, 0.95)], [(0.4, 0.05), (0.5, 0.35)]]
    pen = np.zeros((height, width), bool)
    for colour, points in zip(PENS, strokes, strict=True):
        stroke = line(points, 260)
        out[stroke] = (0.25 * out[stroke] + 0.75 * np.array(colour)).astype(np.uint8)
        pen |= stroke
    fold = line([(0.45, 0.95), (0.6, 0.6)], 200) | line([(0.7, 0.95), (0.95, 0.55)], 200)
    fold &= ~pen
    neighbour = np.roll(image, (round(160 / MPP), round(90 / MPP)), (0, 1))
    out[fold] = light(density(out[fold]) + density(neighbour[fold]))
    hole = np.zeros((height, width), bool)
    hole[int(0.1 * height) : int(0.45 * height), int(0.6 * width) : int(0.9 * width)] = True
    glass = np.percentile(image.reshape(-1, 3), 99.5, axis=0)
    out[hole] = np.clip(glass + rng.normal(0, 1.5, (hole.sum(), 3)), 0, 255)
    return out, {"pen": pen, "fold": fold, "hole": hole}


def with_image(sdata: spatialdata.SpatialData, image: np.ndarray) -> spatialdata.SpatialData:
    """The slide with another image, in memory."""
    sdata["he"] = Image2DModel.parse(np.ascontiguousarray(image.transpose(2, 0, 1)), dims=("c", "y", "x"))
    return sdata


def judge(
    sdata: spatialdata.SpatialData, masks: dict[str, np.ndarray], model: hd.HisDiff, options: argparse.Namespace
) -> pd.DataFrame:
    """One row per tile: score, squared error of the model and of the ridge, and what part of it each mask covers."""
    hd.tl.predict(sdata, model, n_samples=options.samples, steps=options.steps, seed=options.seed)
    slide = slide_inputs(sdata, "spots_morphology", near=model.config.near, wide=model.config.wide)
    truth = measured(sdata["table"], slide.index, model.genes, model.config.target, TEST).y
    predicted = np.asarray(sdata["hisdiff"].to_df().loc[slide.index.astype(str)])
    return pd.DataFrame(
        {
            "score": model.trust.ood.score(slide.embedding),
            "model": ((predicted - truth) ** 2).mean(1),
            "ridge": ((model.baselines.predict("ridge", slide) - truth) ** 2).mean(1),
            **{name: share(mask, slide.xy) for name, mask in masks.items()},
        }
    )


def share(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Part of every tile that lies in a mask."""
    low = np.clip(np.floor(xy).astype(int) - TILE_PX // 2, 0, None)
    return np.array([mask[y : y + TILE_PX, x : x + TILE_PX].mean() for x, y in low])


def summary(tiles: pd.DataFrame) -> dict:
    kinds = [c for c in tiles.columns if c not in ("score", "model", "ridge")]
    clean = (tiles[kinds] == 0).all(axis=1)
    found = {k: tiles[k] >= PAINTED for k in kinds}
    trusted = tiles["score"] <= 1
    return {
        "tiles": len(tiles),
        "trusted": float(trusted.mean()),
        "trusted_of_untouched": float(trusted[clean].mean()),
        "auc": {k: round(auc(tiles["score"][bad | clean], bad[bad | clean]), 3) for k, bad in found.items()},
        "rejected_of_painted": {k: float((~trusted)[bad].mean()) for k, bad in found.items()},
        "mse_trusted": {m: float(tiles[m][trusted].mean()) if trusted.any() else None for m in ("model", "ridge")},
        "mse_all": {m: float(tiles[m].mean()) for m in ("model", "ridge")},
        "risk_coverage": risk_coverage(tiles).to_dict("list"),
    }


def auc(score: pd.Series, bad: pd.Series) -> float:
    """Chance that a bad tile has a higher score than a good one."""
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    return float((rankdata(score)[bad.to_numpy()].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def risk_coverage(tiles: pd.DataFrame, coverage: tuple[float, ...] = COVERAGE) -> pd.DataFrame:
    """Error of the part of the tiles with the lowest scores."""
    ranked = tiles.sort_values("score", kind="stable")
    kept = [ranked[: max(1, round(c * len(ranked)))] for c in coverage]
    return pd.DataFrame({"coverage": coverage, **{m: [k[m].mean() for k in kept] for m in ("model", "ridge")}})


def draw(slides: dict[str, pd.DataFrame]) -> Figure:
    """A risk-coverage curve for every slide."""
    figure = Figure(figsize=(3.3 * len(slides), 3.4), layout="constrained")
    panels = figure.subplots(1, len(slides), sharey=True)
    fine = tuple(np.linspace(0.2, 1, 81))
    clean = slides["as it is"]["model"].mean()
    for axes, (name, tiles) in zip(panels, slides.items(), strict=True):
        curve = risk_coverage(tiles, fine)
        axes.plot(curve["coverage"], curve["model"], color="#0b4f8a", lw=2, label="model")
        axes.plot(curve["coverage"], curve["ridge"], color="#c8641e", lw=1.5, label="ridge")
        axes.axhline(clean, color="0.5", lw=1, ls=":", label="model, slide as it is")
        trusted = (tiles["score"] <= 1).mean()
        axes.axvline(trusted, color="k", lw=1, ls="--", label="score 1")
        axes.set(title=f"{name}\n{trusted:.0%} trusted", xlabel="share of tiles kept", xlim=(-0.03, 1.03))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean squared error (log2)")
    panels[0].set_ylim(0, None)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


if __name__ == "__main__":
    main()
