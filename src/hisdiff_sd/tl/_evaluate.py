from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import measured, rows_of
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, check_slide_object
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.metrics import scores
from hisdiff_sd.pp._genes import check_genes
from hisdiff_sd.tl._model_inputs import model_inputs, resolve_model
from hisdiff_sd.tl._predict import predict
from hisdiff_sd.tl._protocol import protocol_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

_DRESSED_SAMPLES = 16


def evaluate(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    *,
    key: str = keys.PREDICTION,
    table_key: str = keys.TABLE,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge a prediction against the measured table, beside the baselines of the same training slides.

    Parameters
    ----------
    sdata
        A measured slide, best one the model has not seen. It is predicted first if it has no prediction.
    model
        As in `hd.tl.predict`.
    key
        Table with the prediction.
    table_key
        Table with the raw counts.
    seed
        Of the dressed ridge's draws.

    Returns
    -------
    One row per method and kind of prediction: ``method`` (``hisdiff``, ``ridge``, ``dressed_ridge``, ``depth_map``,
    ``mean``), ``samples`` (1: a single sample or a point prediction; n: the mean of n samples), and the scores of
    `hd.metrics.scores`. ``attrs["protocol"]`` says whether the slide or its patient was trained on. A published checkpoint
    has no baselines.

    Raises
    ------
    HisDiffError
        If there are no measured counts, genes of the panel are not among them (named), or the prediction is of another
        model.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> train, test = (hd.io.hest(root, name) for name in ("S1", "S2"))
    >>> model = hd.tl.train([train], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> scores = hd.tl.evaluate(test, model)
    >>> scores["method"].unique().tolist()
    ['hisdiff', 'ridge', 'dressed_ridge', 'depth_map', 'mean']
    >>> scores.attrs["protocol"]
    'held-out slide, within patient'
    """
    check_slide_object(sdata)
    bundle = resolve_model(model)
    if table_key not in sdata.tables:
        listed = ", ".join(sdata.tables) or "none"
        raise HisDiffError(f"no table {table_key!r} of measured counts to evaluate against; tables here: {listed}")
    name = str(slide_attrs(sdata)["slide"])
    check_genes(bundle.genes, [(name, sdata.tables[table_key])])
    if key in {keys.prediction_key(shapes) for shapes in sdata.shapes} - {keys.PREDICTION}:
        raise HisDiffError(
            f"table {key!r} is a map, and counts were measured at spots; predict there: hd.tl.predict(sdata, model)"
        )
    if key not in sdata.tables:
        predict(sdata, bundle, shapes_key=keys.SPOTS, key_added=key)
    prediction, record = _of_panel(sdata.tables[key], bundle, key)
    slide = model_inputs(sdata, bundle)
    rows = rows_of(prediction, slide.index, key)
    if (rows < 0).any():
        raise HisDiffError(
            f"table {key!r} lacks {int((rows < 0).sum())} of {slide.n} spots; predict again with overwrite=True"
        )
    truth = measured(sdata.tables[table_key], slide.index, bundle.genes, bundle.config.target, name).y
    n = int(record["samples"])
    predictions = [("hisdiff", n, np.asarray(prediction.X)[rows])]
    if "sample_0" in prediction.layers and n > 1:
        predictions.insert(0, ("hisdiff", 1, np.asarray(prediction.layers["sample_0"])[rows]))
    baselines = bundle.baselines
    if baselines is not None:
        dressed = baselines.dressed(slide, max(n, _DRESSED_SAMPLES), seed)
        predictions.append(("ridge", 1, baselines.predict("ridge", slide)))
        predictions += [("dressed_ridge", 1, dressed[0]), ("dressed_ridge", len(dressed), dressed.mean(0))]
        predictions += [(m, 1, baselines.predict(m, slide)) for m in ("depth_map", "mean")]
    fixed = None if baselines is None else baselines.top_variance
    table = pd.DataFrame(
        [{"method": m, "samples": s, **scores(p, truth, top_variance=fixed)} for m, s, p in predictions]
    )
    table.attrs["protocol"] = _protocol(sdata, bundle)
    table.attrs["target"] = bundle.config.target
    return table


def _of_panel(table: AnnData, model: HisDiff, key: str) -> tuple[AnnData, dict[str, Any]]:
    """A prediction of this model with the genes of its panel in their order, and how it was made."""
    record = get_provenance(table)
    if record.get("model_hash") != model.fingerprint:
        raise HisDiffError(f"table {key!r} was predicted by another model; predict again with overwrite=True")
    missing = [g for g in model.genes if g not in table.var_names]
    if missing:
        raise HisDiffError(
            f"table {key!r} lacks {len(missing)} genes of the model's panel ({', '.join(missing[:5])}); predict all of them, "
            "without genes=, to evaluate"
        )
    return table[:, model.genes], record


def _protocol(sdata: SpatialData, model: HisDiff) -> str:
    """Say how independent the slide is of the training; warn if it is not at all."""
    attrs = slide_attrs(sdata)
    found = protocol_of(attrs, model)
    if found == keys.TRAINED_ON:
        warnings.warn(
            f"slide {attrs['slide']!r} was trained on: these scores say nothing about new slides",
            HisDiffWarning,
            stacklevel=3,
        )
    return found
