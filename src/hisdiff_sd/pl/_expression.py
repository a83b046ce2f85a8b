from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import measured
from hisdiff_sd._errors import check_gene, check_one_of, check_slide_object
from hisdiff_sd._open import slide_name
from hisdiff_sd.metrics import pcc
from hisdiff_sd.pl._map import Panel, draw_maps, ground_of
from hisdiff_sd.pl._marks import Marks, marks_of
from hisdiff_sd.pl._prediction import WITH_PREDICTION, Prediction, read_prediction, verdicts_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from spatialdata import SpatialData


def expression(
    sdata: SpatialData,
    gene: str,
    *,
    key: str | None = None,
    table_key: str = keys.TABLE,
    shapes_key: str | None = None,
    image_key: str = keys.HE,
) -> Figure:
    """Draw a gene on the H&E: measured, predicted, uncertainty.

    Spots are circles on the pale slide, tiles squares of their true size on the grey one. Where the tissue is unlike the
    training slides (``obs["trusted"]`` is false) no prediction is shown: spots are hollow, tiles grey and hatched. The title
    says how well the gene was predicted on left-out training slides.

    Parameters
    ----------
    sdata
        A slide with a prediction.
    gene
        A gene of the prediction's panel.
    key
        The prediction; by default ``"hisdiff"``, else the only one the slide has.
    table_key
        Measured counts; left out if the slide has none of this gene.
    shapes_key
        Spots or tiles; by default those that the prediction annotates.
    image_key
        The H&E image.

    Returns
    -------
    A figure. Measured and predicted share one colour scale, in the units of the model's target: from the lower of their 1st
    to the higher of their 99th percentiles, so that neither a few empty spots nor a few high values take the colours from the
    others; the ends of the colour bar are pointed where values lie beyond. The uncertainty is the standard deviation over the
    samples, in the same units, from 0; of 32 samples it is off by 13% by chance, so its map is speckled where nothing of the
    slide is. Where tiles are predicted on a slide with measured spots, the spots are drawn beside the tiles.

    Raises
    ------
    HisDiffError
        If there is no such element or gene, or the slide has several predictions and none is called ``"hisdiff"``.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.embed(sdata, "morphology")
    >>> model = hd.tl.train([sdata], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> hd.tl.predict(sdata, model, n_samples=2, steps=2)
    >>> hd.pl.expression(sdata, "ERBB2").get_suptitle()
    'ERBB2 on S1 - reliability unknown'
    """
    check_slide_object(sdata, WITH_PREDICTION)
    check_one_of(image_key, sdata.images, "image")
    prediction = read_prediction(sdata, key, shapes_key)
    check_gene(gene, prediction.table.var_names, f"gene in {prediction.name!r}")
    panels = expression_panels(sdata, prediction, gene, table_key)
    title = f"{gene} on {slide_name(sdata)} - {verdicts_of(prediction.table)[gene]}"
    return draw_maps(panels, ground_of(sdata, prediction.marks, image_key), title)


def expression_panels(
    sdata: SpatialData, prediction: Prediction, gene: str, table_key: str = keys.TABLE
) -> list[Panel]:
    """What is drawn of a gene, left to right; measured comes first, if it was."""
    predicted, spread = prediction.values(gene), prediction.values(gene, "std")
    trusted = prediction.trusted
    truth = measured_beside(sdata, prediction, [gene], table_key)
    shown = [predicted[prediction.believed], *([] if truth is None else [truth[1][:, 0]])]
    scale = ("viridis", *_limits(shown), prediction.units)
    title = f"predicted, mean of {int(prediction.record['samples'])}"
    panels = []
    if truth is not None:
        marks, values = truth
        panels.append(Panel("measured", marks, values[:, 0], *scale))
        if marks is prediction.marks:
            title += f" (r = {pcc(predicted[:, None], values)[0]:.2f})"
    panels.append(Panel(title, prediction.marks, predicted, *scale, trusted=trusted))
    _, top = _limits([spread[prediction.believed]])
    title = "uncertainty, standard deviation"
    return [*panels, Panel(title, prediction.marks, spread, "cividis", 0.0, top, prediction.units, trusted)]


def measured_beside(
    sdata: SpatialData, prediction: Prediction, genes: list[str], table_key: str = keys.TABLE
) -> tuple[Marks, np.ndarray] | None:
    """Where genes were measured, and what (n, genes): at the shapes of the prediction, or at spots beside its tiles."""
    table = sdata.tables.get(table_key)
    if table is None or not set(genes) <= set(table.var_names):
        return None
    spots_key = table.uns.get("spatialdata_attrs", {}).get("region", prediction.shapes_key)
    marks = prediction.marks if spots_key == prediction.shapes_key else marks_of(sdata, spots_key)
    return marks, measured(table, marks.index, genes, prediction.record["target"], table_key).y


def _limits(shown: list[np.ndarray]) -> tuple[float, float]:
    """The ends of a colour scale that several maps share, which a few low or high values do not stretch."""
    # of each by itself: of many tiles beside few spots, all spots may lie beyond the percentiles of both
    low, high = (edge(np.quantile(values, q) for values in shown) for edge, q in ((min, 0.01), (max, 0.99)))
    if high <= low:  # a gene that fewer have than one spot in a hundred
        high = max(values.max() for values in shown)
    return float(low), max(float(high), float(low) + 1e-6)
