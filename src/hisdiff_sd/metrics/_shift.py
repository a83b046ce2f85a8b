from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_SMALLEST_SHIFT = 3.0  # pitches
_SMALLEST_SHIFT_OF_SIDE = 0.25  # of the longer side, on a slide that is too small for that
_REACH = 0.75  # pitches: a moved spot with no spot nearer than that lies outside the tissue
_OVERLAP = 1 / 3  # part of the spots that must have tissue on both sides
_FEWEST_SPOTS = 12
_MOST_SPOTS = 2000  # spots that are compared: more add no information to maps this smooth
_TRIES = 200  # per shift


def shifted_null(
    predicted: ArrayLike, measured: ArrayLike, xy: ArrayLike, *, n_shifts: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    r"""Correlations of every gene after moving the predicted map over the measured one: what chance alone would give.

    Maps of tissue are smooth, so that two unrelated ones often correlate. Shuffling spots destroys the smoothness and
    calls most of them related; moving a map as a whole keeps the autocorrelation of both (the random shift test of
    spatial statistics, see Mrkvicka et al. 2021). Every move is a turn by a random angle about the middle of the slide,
    a reflection half of the time, and a random translation; a value is looked up at the nearest spot. What ends up
    outside the tissue is left out, and not wrapped around: the seams of a wrapped map are not smooth, and a slide whose
    maps are smoother than half its size would get p-values that are too small. A move counts if at least a third of the
    spots have tissue on both sides, and spots move by a median of at least 3 pitches (or a quarter of the slide's longer
    side, if that is less).

    .. math:: p_g = \frac{1 + \#\{ \text{shifts with } r^{(s)}_g \ge r_g \}}{1 + n_\mathrm{shifts}}

    Parameters
    ----------
    predicted, measured
        Maps of one slide, shape (n_spots, n_genes).
    xy
        Spot centres, shape (n_spots, 2), in any unit.
    n_shifts
        Number of moves.
    seed
        Of the moves.

    Returns
    -------
    `pcc` after each move, shape (n_shifts, n_genes), float64.

    Raises
    ------
    HisDiffError
        If shapes differ, a value is not finite, `n_shifts` is below 1, or there are too few spots, or spots in one line,
        so that nothing can be moved.

    Examples
    --------
    >>> import numpy as np
    >>> xy = np.indices((12, 12)).reshape(2, -1).T
    >>> wave = np.sin(xy[:, :1] / 2)  # a map that is predicted exactly
    >>> null = hd.metrics.shifted_null(wave, wave, xy, n_shifts=99)
    >>> null.shape, round(float(1 + (null >= 1).sum()) / 100, 2)
    ((99, 1), 0.01)
    """
    p, t = check_pair(predicted, measured)
    centres = np.asarray(xy, np.float64)
    if centres.shape != (len(p), 2) or not np.isfinite(centres).all():
        raise HisDiffError(f"xy has the shape {centres.shape} or is not finite; it has to be ({len(p)}, 2), finite.")
    if n_shifts < 1:
        raise HisDiffError(f"n_shifts={n_shifts} moves nothing; it has to be 1 or more.")
    if len(p) < _FEWEST_SPOTS:
        raise HisDiffError(f"{len(p)} spots are too few to be moved over each other; {_FEWEST_SPOTS} are needed.")
    rng = np.random.default_rng(seed)
    tree = cKDTree(centres)
    # the nearest spot of a jittered grid is nearer than the pitch, the second nearest is not
    pitch = float(np.median(tree.query(centres, k=3)[0][:, 2]))
    some = np.arange(len(p)) if len(p) <= _MOST_SPOTS else rng.choice(len(p), _MOST_SPOTS, replace=False)
    out = np.empty((n_shifts, p.shape[1]))
    for i in range(n_shifts):
        here, there = _move(rng, tree, some, pitch)
        out[i] = (standardise(p[there]) * standardise(t[here])).sum(axis=0)
    return out


def _move(
    rng: np.random.Generator, tree: cKDTree, some: NDArray[np.int64], pitch: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spots, and for each of them the spot whose predicted value comes to lie there."""
    xy = np.asarray(tree.data)
    low, high = xy.min(axis=0), xy.max(axis=0)
    box, middle = high - low, (low + high) / 2
    least = min(_SMALLEST_SHIFT * pitch, _SMALLEST_SHIFT_OF_SIDE * float(box.max()))
    for _ in range(_TRIES):
        angle = rng.uniform(0.0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            turn = turn @ np.diag([1.0, -1.0])
        moved = (xy[some] - middle) @ turn.T + middle + rng.uniform(-0.5, 0.5, 2) * box
        distance, nearest = tree.query(moved, distance_upper_bound=_REACH * pitch)
        inside = np.isfinite(distance)
        here, there = some[inside], nearest[inside]
        if inside.mean() < _OVERLAP:
            continue
        if np.median(np.hypot(*(xy[here] - xy[there]).T)) >= least:
            return here, there
    raise HisDiffError(
        f"no move of {len(xy)} spots leaves a third of them on the tissue; spots in one line cannot be judged by moving them."
    )
