from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_gene, check_slide_object
from hisdiff_sd._provenance import provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import check_writable, write_table
from hisdiff_sd.pp._partial import partial_results
from hisdiff_sd.tl._depth import check_depth
from hisdiff_sd.tl._draws import Draws, check_draws
from hisdiff_sd.tl._model_inputs import check_slide, model_inputs, resolve_model
from hisdiff_sd.tl._prediction_run import (
    fill,
    is_done,
    lay_out,
    panel_columns,
    partial_key,
    prediction_record,
    table_there,
)
from hisdiff_sd.tl._prediction_table import Summary, prediction_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

_KIND = "exceedance"


def exceedance(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    thresholds: Mapping[str, float] | pd.Series | float | None = None,
    *,
    shapes_key: str | None = None,
    genes: Sequence[str] | None = None,
    n_samples: int = 100,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    depth: float = 1.0,
    device: str = "auto",
    weights: str | Path | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """How probable it is that a gene would be measured above a threshold, at every spot.

    It is the share of the model's samples above the threshold. Samples are of what would be measured at a spot, noise of
    the measurement included. They are calibrated for a flow, the default of `hd.tl.train`, and not for the published process.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. Embeddings that are missing are computed, and a slide without spots is laid with tiles, as
        `hd.tl.predict` does. If it has a store, the table is written there, and a call that was interrupted goes on.
    model
        A model, its folder, or its id on the Hugging Face hub; ``hd.settings.model`` by default.
    thresholds
        On the model's target scale (``"log2"``: log2(count + 1), ``"cp10k"``: log(1 + counts per 10,000)): one number
        for all genes, or one per gene, by name. Needed.
    shapes_key
        Spots or tiles; by default ``"spots"`` if the slide has them.
    genes
        Genes of the model's panel; by default those that `thresholds` names, or all.
    n_samples
        Samples per spot: probabilities are multiples of 1 / n_samples. Those of a flow come in pairs, so even numbers are best.
    sampler, steps
        Of the published process, which sampler; evaluations of the network per sample. As in `hd.tl.predict`.
    seed
        Of the noise. The samples are those of `hd.tl.predict` with this seed.
    depth
        For a model of the target ``"log2"``: counts per spot relative to the training slides, as in `hd.tl.predict`.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    weights
        Local weight file of the encoder, as in `hd.pp.embed`.
    key_added
        Name of the table; ``"hisdiff_exceedance"`` on spots and ``"hisdiff_exceedance_<shapes>"`` on others by default.
    overwrite
        Make it again, in place of what is there. Without it, a table that was made in the same way is kept as it is.

    Returns
    -------
    None. Adds the table ``sdata["hisdiff_exceedance"]``: ``X`` float32 (n_spots, n_genes), probabilities from 0 to 1;
    ``var["threshold"]`` float64, on the target scale; ``obs`` and ``var`` say what is to be trusted, as in a prediction.

    Raises
    ------
    HisDiffError
        If there is no model, no threshold for a gene or one that is no number of 0 or more, a gene is not in the panel,
        embeddings do not fit, or a table of another kind or provenance is in the way.

    Examples
    --------
    Where would at least 7 counts of ERBB2 be measured, with 90% certainty (log2(7 + 1) = 3)?

    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> train, test = (hd.io.hest(root, name) for name in ("S1", "S2"))
    >>> model = hd.tl.train([train], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> hd.tl.exceedance(test, model, {"ERBB2": 3.0}, n_samples=10)
    >>> certain = test["hisdiff_exceedance"].to_df()["ERBB2"] >= 0.9
    """
    check_slide_object(sdata)
    check_draws(n_samples, sampler=sampler, steps=steps)
    if key_added is not None:
        _table_there(sdata, key_added)
    bundle = resolve_model(model)
    check_depth(depth, bundle.config.target)
    draws = Draws.of(bundle.process, n_samples, sampler=sampler, steps=steps, seed=seed, depth=depth)
    summary = _above(bundle, thresholds, genes)
    where = resolve_device(device)
    shapes_key = lay_out(sdata, bundle, shapes_key, None)
    name = key_added or _default_name(shapes_key)
    there = _table_there(sdata, name)
    check_slide(sdata, bundle, shapes_key)
    record = prediction_record(sdata, bundle, shapes_key, draws)
    record |= provenance(kind=_KIND, thresholds=json.dumps(summary.thresholds.tolist()))
    wanted = [bundle.genes[g] for g in summary.genes]
    if there is not None and not overwrite and is_done(there, record, name, wanted, sdata):
        return
    check_writable(sdata)
    slide = model_inputs(sdata, bundle, shapes_key=shapes_key, weights=weights, device=device)
    store = Path(str(sdata.path)) if sdata.is_backed() else None
    with partial_results(
        store, name, partial_key(record, slide, summary, draws, where), slide.n, summary.width
    ) as partial:
        fill(partial, bundle, slide, summary, draws, where)
        record["failed_tiles"] = slide_shapes(sdata, shapes_key).n - slide.n
        record["genes"] = "" if len(wanted) == len(bundle.genes) else json.dumps(wanted)
        table = prediction_table(partial.values, summary, slide, bundle, sdata, shapes_key, record)
        table.var["threshold"] = summary.thresholds
        write_table(sdata, name, table, overwrite=overwrite or there is not None)


@dataclass(frozen=True)
class _Above(Summary):
    """The share of samples above a threshold (n_genes,), in place of the mean and its layers."""

    thresholds: np.ndarray

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Samples (n_samples, n, G) as float32 (n, n_genes)."""
        above = np.zeros((samples.shape[1], len(self.genes)), np.int64)
        for one in samples:  # one by one, as the comparison is in float64
            above += one[:, self.genes] > self.thresholds
        return (above / len(samples)).astype(np.float32)


def _above(
    model: HisDiff, thresholds: Mapping[str, float] | pd.Series | float | None, genes: Sequence[str] | None
) -> _Above:
    """Genes and their thresholds, checked."""
    if thresholds is None:
        raise HisDiffError(
            "no threshold given: pass thresholds=, a number for all genes or one per gene, such as {'ERBB2': 3.0}, on the "
            f"target scale of the model ({model.config.target!r})"
        )
    if not isinstance(thresholds, Mapping | pd.Series):
        kept = panel_columns(model, genes)
        given = dict.fromkeys((model.genes[g] for g in kept), thresholds)
    else:
        if isinstance(thresholds, pd.Series) and not thresholds.index.is_unique:
            raise HisDiffError("thresholds name a gene more than once; give one number per gene")
        given = dict(thresholds)
        for gene in given:
            check_gene(gene, model.genes, "gene in the model's panel")
        kept = panel_columns(model, list(given) if genes is None else genes)
        lacking = [model.genes[g] for g in kept if model.genes[g] not in given]
        if lacking:
            listed = ", ".join(lacking[:10]) + (", ..." if len(lacking) > 10 else "")
            raise HisDiffError(f"thresholds lack {len(lacking)} of {len(kept)} genes: {listed}; give one for each")
    values = [_number(given[model.genes[g]], model.genes[g]) for g in kept]
    return _Above(kept, (), np.float32, np.array(values, np.float64))


def _number(value: float, gene: str) -> float:
    """A threshold that expression can be above or below."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number >= 0):
        raise HisDiffError(
            f"threshold {value!r} of {gene!r} is no number of 0 or more, as all expression on the target scale is"
        )
    return number


def _default_name(shapes_key: str) -> str:
    """Name of the table with the probabilities at these shapes."""
    name = f"{keys.PREDICTION}_{_KIND}"
    return name if shapes_key == keys.SPOTS else f"{name}_{shapes_key}"


def _table_there(sdata: SpatialData, name: str) -> AnnData | None:
    """The table that has this name already; one of another kind is refused."""
    return table_there(sdata, name, _KIND, "holds no probabilities of hd.tl.exceedance and is never replaced by them")
