from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff_sd.metrics._check import check_pair
from hisdiff_sd.metrics._correlation import pcc_of, pcc_top
from hisdiff_sd.metrics._error import mae, mse
from hisdiff_sd.metrics._structure import gene_corr_error
from hisdiff_sd.metrics._variance import log_var_ratio, rvd

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def scores(pred: ArrayLike, true: ArrayLike, *, top_variance: ArrayLike | None = None) -> dict[str, float]:
    """Every score of one prediction of one slide.

    Parameters
    ----------
    pred, true
        Predicted and measured expression on the same scale, shape (n_spots, n_genes).
    top_variance
        Columns of the genes that vary most over the training slides, shape (n,), integers. They have to come from the
        training slides: chosen on this one they would leak its measurements into the score.

    Returns
    -------
    ``pcc10``, ``pcc50``
        `pcc_top`, the method's own best genes.
    ``pcc_all``
        Mean of `pcc` over all genes.
    ``pcc_top_variance``
        `pcc_of` over `top_variance`; missing if that is None.
    ``mse``, ``mae``, ``rvd``, ``log_var_ratio``, ``gene_corr_error``
        The functions of these names.

    Raises
    ------
    HisDiffError
        If the shapes differ, a value is not finite or `top_variance` names a column that does not exist.

    Examples
    --------
    >>> list(hd.metrics.scores([[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], top_variance=[0]))
    ['pcc10', 'pcc50', 'pcc_all', 'pcc_top_variance', 'mse', 'mae', 'rvd', 'log_var_ratio', 'gene_corr_error']
    """
    p, t = check_pair(pred, true)
    out = {"pcc10": pcc_top(p, t, 10), "pcc50": pcc_top(p, t, 50), "pcc_all": pcc_top(p, t, p.shape[1])}
    if top_variance is not None:
        out["pcc_top_variance"] = pcc_of(p, t, top_variance)
    for score in (mse, mae, rvd, log_var_ratio, gene_corr_error):
        out[score.__name__] = score(p, t)
    return out
