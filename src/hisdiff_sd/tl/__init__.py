"""Train, predict, evaluate, compare."""

from hisdiff_sd.tl._cross_validate import cross_validate
from hisdiff_sd.tl._cross_validation import CrossValidation
from hisdiff_sd.tl._evaluate import evaluate
from hisdiff_sd.tl._exceedance import exceedance
from hisdiff_sd.tl._hest_benchmark import hest_benchmark
from hisdiff_sd.tl._learning_curve import learning_curve
from hisdiff_sd.tl._predict import predict
from hisdiff_sd.tl._rasterize import rasterize
from hisdiff_sd.tl._read_map import read_map
from hisdiff_sd.tl._region_mean import region_mean
from hisdiff_sd.tl._row import Row, Shuffled
from hisdiff_sd.tl._rows_hisdiff import HisDiffRow
from hisdiff_sd.tl._train import train

__all__ = [
    "train",
    "predict",
    "exceedance",
    "region_mean",
    "rasterize",
    "read_map",
    "evaluate",
    "cross_validate",
    "CrossValidation",
    "learning_curve",
    "Row",
    "HisDiffRow",
    "Shuffled",
    "hest_benchmark",
]
