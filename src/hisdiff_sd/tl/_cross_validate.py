from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import check_one_of
from hisdiff_sd._targets import TARGETS, Target
from hisdiff_sd.tl._cross_validation import CrossValidation
from hisdiff_sd.tl._cv_folds import Comparison
from hisdiff_sd.tl._cv_slides import Cohort, Reading
from hisdiff_sd.tl._cv_store import Store
from hisdiff_sd.tl._leakage import given_panel, label_splits
from hisdiff_sd.tl._row import Row
from hisdiff_sd.tl._rows import resolve_rows
from hisdiff_sd.tl._splits import Manifest, make_splits

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder


def cross_validate(
    slides: Sequence[SpatialData | str | Path],
    *,
    by: str | Path | Manifest = "slide",
    target: Target = "log2",
    genes: Any = None,
    encoder: str | TileEncoder = "uni",
    rows: Sequence[str | Row | Callable[..., Any]] | None = None,
    n_samples: int = 32,
    tile_um: float | None = None,
    padding: str = "black",
    weights: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    table_key: str = keys.TABLE,
) -> CrossValidation:
    """Compare methods on slides that they have not learned from.

    Slides are left out fold by fold. Everything that is learned, the gene panel, scales, penalties, numbers of
    neighbours and the length of a training included, is learned from the other slides of the fold, the same ones and the
    same embeddings for every row. One slide under two ids is refused; a patient on both sides is warned of and said in
    every table.

    Parameters
    ----------
    slides
        Measured slides, objects or paths of stores, two or more.
    by
        ``"slide"``: each slide left out in turn. ``"patient"``: all slides of a patient together. Or which slides each
        fold is judged on: a mapping fold -> ids, or a file with it (JSON, or CSV with the columns ``fold`` and
        ``slide``); the other slides are learned from.
    target
        As in `hd.tl.train`. Report both: ``"log2"`` scores mostly depth.
    genes
        The panel of all folds: names, a `HisDiff` model, or a pandas Series with ``attrs["slides"]``, the slides it was
        chosen on. By default `hd.pp.select_genes` of the training slides of each fold; panels then differ a little, and
        pooled figures are means over slides.
    encoder, tile_um, padding, weights
        As in `hd.pp.embed`, which is run once where a slide has no such embeddings yet.
    rows
        What to compare: names, `Row` objects, or functions ``fit(slides, truth)`` that return ``predict(slide)``. Names
        are ``mean``, ``depth_map``, ``ridge`` (of the spot), ``ridge_context``, ``better_ridge`` (of the two, by left-out
        training slides), ``dressed_ridge``, ``random_spot``, ``knn``, ``knn_mean``, ``mlp``, ``forest``,
        ``hisdiff:<preset>``, ``hisdiff`` (the default preset), and ``shuffled:<row>``, which is shown the tissue of
        other spots. By default the quick ones, and the default model as it is and shuffled.
    n_samples
        Samples of each row that has any; coverage needs 19 or more.
    out
        Folder for the predictions, the trained models and a manifest of how they were made. A call that was interrupted
        goes on when it is made again, and one with more rows adds them. Without it a temporary folder is used.
    device
        Torch device of encoders and networks.
    seed
        Of everything random.
    table_key
        Table with the raw counts.

    Returns
    -------
    The stored predictions: ``scores()``, ``summary()``, ``compare(row, reference)``, ``rescore(function)``.

    Raises
    ------
    HisDiffError
        If slides leak (named), patients are unknown with ``by="patient"`` (named), folds, genes or rows do not fit, or
        `out` holds another cross-validation.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2", "S3"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2", "S3")]
    >>> cv = hd.tl.cross_validate(slides, by="patient", encoder="morphology", rows=["mean", "ridge"])
    >>> len(cv.scores())
    6
    """
    check_one_of(target, TARGETS, "target")
    comparison = Comparison(resolve_rows(rows), n_samples, device, seed)
    if weights is not None:
        from hisdiff_sd import encoders

        encoder, weights = encoders.load(encoder, weights=weights, device=device), None
    cohort = Cohort(slides, Reading(encoder, target, tile_um, padding, weights, device, table_key))
    splits = make_splits(list(cohort.slides), cohort.patients, by)
    given = None if genes is None else given_panel(genes, splits)
    labels = label_splits(splits, cohort.patients)
    cohort.embed(given)
    panels = [cohort.panel(split) if given is None else given for split in splits]
    keep = tempfile.TemporaryDirectory(prefix="hisdiff_sd-cv-") if out is None else None
    store = Store(Path(str(out) if keep is None else keep.name).absolute())
    comparison.predict(cohort, splits, panels, labels, "per fold" if given is None else "given", store)
    return CrossValidation(store.folder, keep)
