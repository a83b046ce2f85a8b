from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import spot_pitch_um
from hisdiff_sd._errors import HisDiffError, check_gene
from hisdiff_sd._html import check_page
from hisdiff_sd._open import open_slide, slide_name
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd._slide_report import Picture, SlideReport, slide_page
from hisdiff_sd._whole_file import write_text
from hisdiff_sd.io._qc import qc
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.metrics import pcc
from hisdiff_sd.pl._expression import expression_panels, measured_beside
from hisdiff_sd.pl._map import Ground, Panel, draw_maps, draw_slide, ground_of
from hisdiff_sd.pl._prediction import Prediction, read_prediction, verdicts_of
from hisdiff_sd.pl._reliability import draw_reliability
from hisdiff_sd.pl._tissue import tissue

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

_N_MAPS = 6
_DPI, _QUALITY = 140, 82


def report(
    sdata: SpatialData | str | Path,
    path: str | Path,
    *,
    key: str | None = None,
    genes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what a model says of a slide, and how far to believe it, as one HTML page.

    The page carries its pictures itself, so that it opens offline and can be sent to others: the slide, maps of some genes
    with their uncertainty, which genes and which parts of the tissue to believe, quality control, provenance.

    Parameters
    ----------
    sdata
        A slide with a prediction, or the path of its store.
    path
        The file to write, such as ``"SPA148.html"``.
    key
        The prediction; by default ``"hisdiff"``, else the only one the slide has.
    genes
        Genes whose maps are shown; by default six: the most reliable, and of the reliable ones those that vary most.
    overwrite
        Replace a file that is there.

    Returns
    -------
    The path of the page.

    Raises
    ------
    MissingFileError
        If there is no such store.
    HisDiffError
        If the slide has no prediction, a gene is not in it, or the file is there or cannot be written.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder, slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.embed(sdata, "morphology")
    >>> model = hd.tl.train([sdata], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> hd.tl.predict(sdata, model, n_samples=2, steps=2)
    >>> hd.pl.report(sdata, folder + "/S1.html", genes=["ERBB2"]).name
    'S1.html'
    """
    place = Path(path)
    check_page(place, overwrite=overwrite)
    slide = open_slide(sdata)
    prediction = read_prediction(slide, key)
    scores = _scores(slide, prediction)
    shown = _choose(scores, genes, prediction.name)
    spacing_um, spot_um = _sizes_um(slide, prediction.shapes_key)
    ground, ood = ground_of(slide, prediction.marks), prediction.ood
    content = SlideReport(
        attrs=slide_attrs(slide),
        record=prediction.record,
        table=prediction.name,
        shapes=prediction.shapes_key,
        places="tiles" if prediction.marks.are_tiles else "spots",
        n=prediction.marks.n,
        spacing_um=spacing_um,
        spot_um=spot_um,
        tissue_mm2=_tissue_mm2(slide),
        trusted_share=None if prediction.trusted is None else float(prediction.trusted.mean()),
        ood_median=None if ood is None else float(np.median(ood)),
        genes=scores,
        overview=_overview(slide),
        reliability=_chart(prediction) if scores["r"].notna().any() else None,
        ood=None if ood is None else _ood_map(prediction, ood, ground),
        wide=ground.is_wide,
        maps={gene: _maps(slide, prediction, gene, ground) for gene in shown},
        store=Path(str(slide.path)).name if slide.is_backed() else f"{slide_name(slide)}.zarr",
        qc=qc(slide),
    )
    write_text(place, slide_page(content))
    return place


def _scores(sdata: SpatialData, prediction: Prediction) -> pd.DataFrame:
    """What the page says of every gene, the best first."""
    table, seen = prediction.table, prediction.rows[prediction.believed]
    verdicts = verdicts_of(table)
    mean, std = np.asarray(table.X)[seen], np.asarray(table.layers["std"])[seen]
    found = pd.DataFrame(
        {
            "reliable": pd.Series([v.reliable for v in verdicts.values()], dtype=object).to_numpy(),
            "r": [np.nan if v.r is None else v.r for v in verdicts.values()],
            "q": [np.nan if v.q is None else v.q for v in verdicts.values()],
            "here": np.nan,
            "mean": mean.mean(0, dtype=np.float64),
            "varies": mean.std(0, dtype=np.float64),
            "std": std.mean(0, dtype=np.float64),
        },
        index=list(verdicts),
    )
    both = [g for g in found.index if keys.TABLE in sdata.tables and g in sdata.tables[keys.TABLE].var_names]
    truth = measured_beside(sdata, prediction, both) if both else None
    if truth is not None and truth[0] is prediction.marks:
        columns = table.var_names.get_indexer(both)
        found.loc[both, "here"] = pcc(np.asarray(table.X)[prediction.rows][:, columns], truth[1])
    return found.sort_values(["r", "varies"], ascending=False, kind="stable")


def _choose(scores: pd.DataFrame, wanted: Sequence[str] | None, name: str) -> list[str]:
    """The genes whose maps are shown."""
    if wanted is not None:
        if isinstance(wanted, str) or not len(wanted):
            raise HisDiffError(f"genes={wanted!r} is no list of genes; give some of table {name!r}, or leave it out")
        return [check_gene(gene, scores.index, f"gene in {name!r}") for gene in dict.fromkeys(wanted)]
    reliable = scores[[bool(v) for v in scores["reliable"]]]
    pool = reliable if len(reliable) else scores
    varying = pool.sort_values("varies", ascending=False, kind="stable").index
    turns = [gene for pair in zip(pool.index, varying, strict=True) for gene in pair]
    return list(dict.fromkeys(turns if pool["r"].notna().any() else varying))[:_N_MAPS]


def _sizes_um(sdata: SpatialData, shapes_key: str) -> tuple[float | None, float]:
    """Distance of the tiles, or the declared one of the spots, and the diameter of the spots they are or stand for."""
    shapes, mpp = slide_shapes(sdata, shapes_key), float(slide_attrs(sdata)["mpp"])
    spacing = spot_pitch_um(sdata) if shapes.spacing_px is None else shapes.spacing_px * mpp
    return spacing, shapes.diameter_px * mpp


def _maps(sdata: SpatialData, prediction: Prediction, gene: str, ground: Ground) -> list[Picture]:
    """Measured, if it was, predicted and uncertainty, each by itself: a phone shows them under each other."""
    pictures = []
    for panel in expression_panels(sdata, prediction, gene):
        low, middle, high = np.quantile(panel.values, [0.05, 0.5, 0.95])
        alt = (
            f"map of {gene} on slide {slide_name(sdata)}, {panel.title}: median {middle:.2f}, 5% below {low:.2f}, "
            f"5% above {high:.2f}; {panel.label}"
        )
        pictures.append(_picture(draw_maps([panel], ground, legend=False), alt))
    return pictures


def _chart(prediction: Prediction) -> Picture:
    alt = "all genes by how well they were predicted on left-out training slides; the table below has the same figures"
    return _picture(draw_reliability(verdicts_of(prediction.table)), alt)


def _ood_map(prediction: Prediction, ood: np.ndarray, ground: Ground) -> Picture:
    """The distance from the training slides, with the border of trust on its scale."""
    top = max(2.0, float(np.quantile(ood, 0.99)))
    label = "distance from the training slides\n(line: border of trust)"
    figure = draw_maps([Panel("", prediction.marks, ood, "cividis", 0.0, top, label)], ground)
    bar = figure.axes[-1]
    for color, width in (("white", 3), ("black", 1.5)):
        (bar.axvline if ground.is_wide else bar.axhline)(1, color=color, lw=width)
    return _picture(
        figure,
        f"map of the distance from the training slides: median {np.median(ood):.2f}, highest {ood.max():.2f}; 1 is the border",
    )


def _overview(sdata: SpatialData) -> Picture:
    """The whole slide with the outlines of its tissue, where they are known."""
    outlined = keys.TISSUE in sdata.shapes
    words = "The whole slide" + (
        " and the outlines of its tissue" if outlined else "; its tissue was not outlined (hd.pp.tissue)"
    )
    figure = tissue(sdata) if outlined else draw_slide(sdata)
    return _picture(figure, f"H&E slide {slide_name(sdata)}. {words}", words)


def _tissue_mm2(sdata: SpatialData) -> float | None:
    if keys.TISSUE not in sdata.shapes:
        return None
    return float(sdata.shapes[keys.TISSUE].area.sum()) * (slide_attrs(sdata)["mpp"] / 1000) ** 2


def _picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    content = io.BytesIO()
    figure.savefig(content, format="webp", dpi=_DPI, pil_kwargs={"quality": _QUALITY})
    return Picture(content.getvalue(), alt, caption)
