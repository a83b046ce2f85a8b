from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.metrics import gene_corr_error
from hisdiff_sd.metrics._check import standardise, variances
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._methods import NORMAL, SMALL, WIDTH, predictions_of, slides_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff_sd.tl._cross_validation import CrossValidation, StoredPrediction

_NAMES_INCHES, _BAR_INCHES = 0.95, 0.6
_LETTERS = 5.5  # points
_FURTHER = 32  # points between the two columns of names


class _Values(NamedTuple):
    """What is drawn in one panel: whose, of what, and the values (n, G)."""

    row: str
    what: str
    values: np.ndarray


def coexpression(
    result: CrossValidation,
    row: str,
    *,
    slide: str | None = None,
    n_genes: int = 40,
    reference: str | None = None,
) -> Figure:
    """Draw the correlations between genes over the spots of a slide: measured, in a single sample, in the mean of samples.

    The mean of samples, as every smooth prediction, has correlations that are too strong; samples of a good model have
    those of the tissue.

    Parameters
    ----------
    result
        What `hd.tl.cross_validate` returned.
    row
        A method. Of a point prediction there is one panel beside the measured one.
    slide
        A test slide; by default the first.
    n_genes
        How many genes are shown: those that vary most in the measurement.
    reference
        Another row, such as ``"better_ridge"``, whose mean is drawn in a panel more.

    Returns
    -------
    A figure, 180 mm wide. Genes are in one order, which clusters the measured correlations, and panels share one colour
    scale. Titles have `hd.metrics.gene_corr_error` of the genes shown, and of all.

    Raises
    ------
    HisDiffError
        If there is no such row or slide, or there are fewer than two genes to show.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> cv = hd.tl.cross_validate(slides, encoder="morphology", rows=["ridge", "random_spot"])
    >>> figure = hd.pl.coexpression(cv, "random_spot", n_genes=10, reference="ridge")
    """
    for name in (row, *(() if reference is None else (reference,))):
        check_one_of(name, result.rows, "row")
    shown = slides_of(result, slide)[:1]
    p = next(predictions_of(result, row, shown))
    if min(n_genes, len(p.genes)) < 2:
        raise HisDiffError(f"n_genes={n_genes} of a panel of {len(p.genes)}: a correlation needs two genes")
    panels = _panels(p)
    if reference is not None and reference != row:
        panels.append(_panels(next(predictions_of(result, reference, shown)))[-1])
    genes = np.argsort(-variances(p.true), kind="stable")[:n_genes]
    order = genes[_clustered(_correlation(p.true[:, genes]))]
    return _draw(panels, p, order)


def _panels(p: StoredPrediction) -> list[_Values]:
    """Measured, single sample, mean of the samples; of a point prediction measured and predicted."""
    mean = p.samples.mean(0, dtype=np.float64)
    measured = _Values("", "measured", p.true)
    if len(p.samples) == 1:
        return [measured, _Values(p.row, "point prediction", mean)]
    single = _Values(p.row, "single sample", p.samples[0].astype(np.float64))
    return [measured, single, _Values(p.row, f"mean of {len(p.samples)} samples", mean)]


def _correlation(values: np.ndarray) -> np.ndarray:
    """(G, G) Pearson; genes that do not vary correlate 0."""
    scaled = standardise(values)
    return np.asarray((scaled.T @ scaled).clip(-1, 1))


def _clustered(correlation: np.ndarray) -> np.ndarray:
    """Order of genes by average linkage, neighbours as alike as can be."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - correlation
    np.fill_diagonal(distance, 0.0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)))


def _draw(panels: list[_Values], p: StoredPrediction, order: np.ndarray) -> Figure:
    columns = len(panels) if len(panels) <= 3 else 2
    lines = -(-len(panels) // columns)
    inches = min((WIDTH - _NAMES_INCHES - _BAR_INCHES) / columns, 2.6)
    width = inches * columns + _NAMES_INCHES + _BAR_INCHES
    figure = new_figure(figsize=(width, (inches + 0.5) * lines + 0.3))
    figure.set_layout_engine("compressed")  # squares leave no gaps
    grid = figure.subplots(lines, columns, squeeze=False)
    matrices = [_correlation(panel.values[:, order]) for panel in panels]
    top = _top(matrices)
    for axes, panel, matrix in zip(grid.flat, panels, matrices, strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axes.set_title(_title(panel, p.true, order), fontsize=SMALL, parse_math=False)
        axes.set(xticks=[], yticks=[])
    for axes in grid[:, 0]:
        _name(axes, [p.genes[i] for i in order], inches * 72 / len(order))
    extend = "both" if top < 1 else "neither"
    bar = figure.colorbar(image, ax=grid, extend=extend, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label("Pearson correlation over spots", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    some = "all" if len(order) == len(p.genes) else f"the {len(order)} most variable of"
    title = f"{p.slide}: {some} {len(p.genes)} genes, {len(p.true)} spots"
    figure.suptitle(title, fontsize=NORMAL + 1, parse_math=False)
    return figure


def _top(matrices: list[np.ndarray]) -> float:
    """The end of the colour scale, which a few strong pairs do not stretch."""
    pairs = np.triu_indices(len(matrices[0]), 1)
    strong = np.quantile(np.abs([m[pairs] for m in matrices]), 0.99)
    return float(np.clip(np.ceil(strong * 10) / 10, 0.2, 1.0))


def _title(panel: _Values, true: np.ndarray, order: np.ndarray) -> str:
    if not panel.row:
        return panel.what
    error = f"error {gene_corr_error(panel.values[:, order], true[:, order]):.3f}"
    if len(order) < true.shape[1]:
        error += f" (all genes {gene_corr_error(panel.values, true):.3f})"
    return f"{panel.row}\n{panel.what}\n{error}"


def _name(axes: Axes, genes: list[str], pitch: float) -> None:
    """Names of the genes, `pitch` points apart, in two columns where they are dense, and none where they are too many."""
    if 2 * pitch < _LETTERS:
        axes.set_ylabel(f"{len(genes)} genes", fontsize=SMALL)
        return
    step = 1 if pitch >= _LETTERS else 2
    place = np.arange(len(genes))
    for first, minor, length in ((0, False, 2), (1, True, _FURTHER))[:step]:
        axes.set_yticks(place[first::step], genes[first::step], minor=minor, parse_math=False)
        which = "minor" if minor else "major"
        axes.tick_params(axis="y", which=which, length=length, width=0.3, color="0.6", pad=1, labelsize=_LETTERS)
