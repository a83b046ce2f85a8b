from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def gene_set_scores(
    values: ArrayLike, genes: Sequence[str], sets: Mapping[str, Iterable[str]]
) -> dict[str, NDArray[np.float64]]:
    r"""Score of every spot for sets of genes: the mean of the z-scores of the genes of a set.

    .. math:: a_{sk} = \frac{1}{|K|} \sum_{g \in K} \frac{x_{sg} - \bar x_g}{\sigma_g}

    :math:`K` are the genes of set :math:`k` that are in the panel, mean and population standard deviation are over the
    spots. Correlate the scores of a prediction with those of the measurement by `pcc`. ``pd.DataFrame(scores)`` makes a
    table of them.

    Parameters
    ----------
    values
        Expression, shape (n_spots, n_genes).
    genes
        Names of the columns, shape (n_genes,), each once.
    sets
        Name of a set -> its genes. Genes outside the panel are passed over.

    Returns
    -------
    Name of the set -> scores, shape (n_spots,), float64, in standard deviations of a gene. A gene that does not vary
    counts as 0.

    Raises
    ------
    HisDiffError
        If a set has no gene in the panel, a gene is named twice, shapes do not fit or a value is not finite.

    Examples
    --------
    >>> values = [[0.0, 4.0, 1.0], [2.0, 0.0, 1.0]]
    >>> scores = hd.metrics.gene_set_scores(values, ["A", "B", "C"], {"one": ["A", "X"], "two": ["A", "B"]})
    >>> {name: score.round(6).tolist() for name, score in scores.items()}
    {'one': [-1.0, 1.0], 'two': [0.0, 0.0]}
    """
    x, _ = check_pair(values, values)
    column = {gene: i for i, gene in enumerate(genes)}
    if len(genes) != x.shape[1] or len(column) != len(genes):
        raise HisDiffError(
            f"genes holds {len(genes)} names, {len(column)} of them different; values has {x.shape[1]} columns, and each "
            "needs a name of its own."
        )
    # a string would be taken for a set of one-letter genes
    members = {name: [g] if isinstance(g, str) else list(dict.fromkeys(g)) for name, g in sets.items()}
    columns = {name: [column[gene] for gene in own if gene in column] for name, own in members.items()}
    missing = [name for name, found in columns.items() if not found]
    if missing:
        raise HisDiffError(f"no gene of these sets is in the panel: {', '.join(missing)}; leave them out.")
    z = standardise(x) * np.sqrt(len(x))
    return {name: z[:, found].mean(axis=1) for name, found in columns.items()}
