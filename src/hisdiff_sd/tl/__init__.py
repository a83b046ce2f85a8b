"""Train, predict, evaluate."""

from hisdiff_sd.tl._evaluate import evaluate
from hisdiff_sd.tl._predict import predict
from hisdiff_sd.tl._rasterize import rasterize
from hisdiff_sd.tl._train import train

__all__ = ["train", "predict", "rasterize", "evaluate"]
