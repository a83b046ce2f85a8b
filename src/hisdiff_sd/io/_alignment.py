"""Do spots lie where the image says they lie? What was measured, against what is seen under them, here and elsewhere.

What a spot expresses goes with the tissue under it: its density, colour and texture. If the spots fit the image much better
after they were mirrored, turned or moved, they do not lie where they should.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi
from scipy import sparse

from hisdiff_sd._tissue_mask import tissue_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_WORK_UM = 12.0  # per pixel: a spot of 55 um has four or five
_FEWEST = 30  # spots with counts; of fewer nothing can be said
_MOST = 1000  # spots that are looked at
_GENES, _COMPONENTS = 300, 6
_RIDGE = 0.01
_AT_ONCE = 128  # placements, to need little memory
_LOW = 0.05  # of the median total: below it composition is noise
_COUNTED = 0.25  # of the median total: a spot with so many counts is no spot on glass
_ON_GLASS = 0.2  # share of a spot that is tissue, below which it is on glass
_FARTHEST, _AROUND = 8, 2  # pitches by which spots are moved as they are, and mirrored or turned
_REFINED = 12  # of the best placements, for which half pitches are tried too
_NEAR, _APART = 1.0, 2.5  # pitches: one place, and surely another
_LEAD = 0.3  # of the height of the best fit above the usual one, by which it is ahead of all others
# sum of seven R2: at least, and for one spot; by chance the best of 700 rises by about 30 over the number of spots
_LEAST_RISE, _RISE_OF_ONE = 0.25, 45.0
_HIGH = 3.0  # standard deviations of the fits, by which the best is above the usual one
_MORE_GLASS, _MUCH_GLASS = 0.02, 0.1  # share of the spots

_TURNS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "": ((1, 0), (0, 1)),
    "mirrored left to right": ((-1, 0), (0, 1)),
    "mirrored top to bottom": ((1, 0), (0, -1)),
    "turned by 180 degrees": ((-1, 0), (0, -1)),
    "x and y exchanged": ((0, 1), (1, 0)),
    "turned by 90 degrees clockwise": ((0, -1), (1, 0)),
    "turned by 90 degrees counter-clockwise": ((0, 1), (-1, 0)),
    "x and y exchanged and turned by 180 degrees": ((0, -1), (-1, 0)),
}


@dataclass(frozen=True)
class _Move:
    """What is done to the spots: mirrored or turned, then moved by so many pitches."""

    turn: str = ""
    dx: float = 0.0
    dy: float = 0.0

    def __str__(self) -> str:
        moved = f"moved by {self.dx:+g} pitches in x and {self.dy:+g} in y" if self.dx or self.dy else ""
        return ", ".join(part for part in (self.turn, moved) if part)


@dataclass(frozen=True)
class _Placements:
    """Where the spots might lie: (m, n, 2) in px, the first as they are, and what was done to them."""

    xy: Array
    moves: list[_Move]


def alignment(
    image: NDArray[np.uint8],
    um_per_px: float,
    xy: Array,
    counts: sparse.csr_matrix,
    diameter_um: float,
    pitch_um: float,
) -> dict[str, Any]:
    """Compare the fit of counts and image where the spots lie with the fit elsewhere.

    Expression (the log total and six principal components of the most abundant genes) is regressed on density, colour and
    texture of the image under the spots, for some 600 placements: moved by up to eight pitches, mirrored and turned about
    the middle of the image and of the spots. The fit is the sum of R2 over the seven.

    Parameters
    ----------
    image
        A small picture of the slide, uint8 (y, x, 3).
    um_per_px
        Its pixel size.
    xy
        (n, 2) spot centres (x, y) on that picture.
    counts
        (n, genes) raw counts, without control probes.
    diameter_um, pitch_um
        Of the spots.

    Returns
    -------
    Plain values: ``verdict`` (``"fits"``, ``"elsewhere"`` or ``"undecided"``), ``fit`` as placed, ``usual`` (the median over
    placements), ``best`` and ``best_fit`` (the best placement that is another one), and ``on_glass``, the share of spots
    with counts that lie beside the tissue. Only ``on_glass`` where there are too few spots.
    """
    factor = max(1, round(_WORK_UM / um_per_px))
    small = _reduced(image, factor)
    um_per_px, xy = um_per_px * factor, (xy + 0.5) / factor - 0.5
    total = np.asarray(counts.sum(1), np.float64).ravel()
    typical = float(np.median(total[total > 0])) if (total > 0).any() else 0.0
    tissue = _tissue_of_spots(small, um_per_px, diameter_um)
    counted = total >= max(_COUNTED * typical, 1)
    found: dict[str, Any] = {"on_glass": float(_glass(tissue, xy[counted]).mean()) if counted.any() else 0.0}
    used = np.flatnonzero(total >= max(_LOW * typical, 1))
    if len(used) < _FEWEST:
        return found
    if len(used) > _MOST:
        used = np.sort(np.random.default_rng(0).choice(used, _MOST, replace=False))
    pitch = pitch_um / um_per_px
    features, expression = _features(small, um_per_px, diameter_um, pitch_um), _expression(counts[used])
    places = _placements(xy[used], small.shape[:2], pitch)
    fits = _fits(features, places.xy, expression)
    finer = _between(places, np.union1d(np.argsort(-fits)[:_REFINED], [0]), pitch)
    fits = np.concatenate([fits, _fits(features, finer.xy, expression)])
    places = _Placements(np.concatenate([places.xy, finer.xy]), places.moves + finer.moves)
    glass = _glass(tissue, places.xy[:, counted[used]]).mean(1)
    return found | _judged(places, fits, glass, pitch)


def _reduced(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(factor))


def _tissue_of_spots(image: NDArray[np.uint8], um_per_px: float, diameter_um: float) -> NDArray[np.float32]:
    """Which share of a spot would be tissue, wherever it lies."""
    mask = tissue_mask(image, um_per_px, min_area_um2=50_000.0, min_hole_um2=10_000.0).mask
    return np.asarray(ndi.gaussian_filter(mask.astype(np.float32), diameter_um / 4 / um_per_px))


def _at(field: NDArray[np.float32], xy: Array, outside: float) -> Array:
    """Values of a map at places (..., 2) in px."""
    return np.asarray(
        ndi.map_coordinates(field, np.moveaxis(xy[..., ::-1], -1, 0), order=1, mode="constant", cval=outside),
        np.float64,
    )


def _glass(tissue: NDArray[np.float32], xy: Array) -> NDArray[np.bool_]:
    return _at(tissue, xy, 0.0) < _ON_GLASS


def _features(
    image: NDArray[np.uint8], um_per_px: float, diameter_um: float, pitch_um: float
) -> list[NDArray[np.float32]]:
    """Maps of what is seen of the tissue under a spot: density of every channel, texture, density around it."""
    density = -np.log10((image.astype(np.float32) + 1) / 256).transpose(2, 0, 1)
    inside, around = 0.3 * diameter_um / um_per_px, 0.6 * pitch_um / um_per_px
    grey = density.mean(0)
    mean = ndi.gaussian_filter(grey, inside)
    texture = np.sqrt(np.maximum(ndi.gaussian_filter(grey**2, inside) - mean**2, 0))
    return [*(ndi.gaussian_filter(c, inside) for c in density), texture, ndi.gaussian_filter(grey, around)]


def _expression(counts: sparse.csr_matrix) -> Array:
    """(n, k) what differs between spots, centred columns of length 1: the log total, and components of the composition."""
    total = np.asarray(counts.sum(1), np.float64).ravel()
    abundant = np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:_GENES]
    log = np.log1p(counts[:, abundant].toarray().astype(np.float64) / total[:, None] * 1e4)
    components = np.linalg.svd(log - log.mean(0), full_matrices=False)[0][:, :_COMPONENTS]
    depth = np.log(total) - np.log(total).mean()
    return np.column_stack([depth / max(float(np.linalg.norm(depth)), 1e-12), components])


def _placements(xy: Array, shape: tuple[int, ...], pitch: float) -> _Placements:
    centres = {"the image": np.array([shape[1], shape[0]]) / 2 - 0.5, "the spots": (xy.min(0) + xy.max(0)) / 2}
    placed, done = [xy], [_Move()]
    for (turn, matrix), (about, centre) in itertools.product(_TURNS.items(), centres.items()):
        if not turn and about == "the spots":
            continue  # as they are, about whatever point
        reach = _AROUND if turn else _FARTHEST
        turned = (xy - centre) @ np.array(matrix).T + centre
        for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
            if turn or dx or dy:
                placed.append(turned + np.array([dx, dy]) * pitch)
                done.append(_Move(f"{turn} about {about}" if turn else "", dx, dy))
    return _Placements(np.stack(placed), done)


def _between(places: _Placements, which: NDArray[np.intp], pitch: float) -> _Placements:
    """Placements half a pitch around others."""
    steps = [(dx, dy) for dy, dx in itertools.product((-0.5, 0.0, 0.5), repeat=2) if dx or dy]
    placed = [places.xy[i] + np.array(step) * pitch for i in which for step in steps]
    moves = [replace(m, dx=m.dx + dx, dy=m.dy + dy) for m in (places.moves[i] for i in which) for dx, dy in steps]
    return _Placements(np.stack(placed), moves)


def _fits(features: list[NDArray[np.float32]], xy: Array, expression: Array) -> Array:
    """(m,) sum over the columns of `expression` of the R2 of a ridge regression on the features at every placement."""
    glass = [float(np.quantile(field, 0.02)) for field in features]
    # what hardly varies between the spots must not be blown up
    least = np.array([1e-3 * max(float(field.std()), 1e-6) for field in features])
    fits = []
    for places in np.array_split(xy, -(-len(xy) // _AT_ONCE)):
        seen = np.stack([_at(field, places, g) for field, g in zip(features, glass, strict=True)], axis=-1)
        seen -= seen.mean(1, keepdims=True)
        seen /= np.maximum(seen.std(1, keepdims=True), least)
        gram = np.einsum("mnf,mng->mfg", seen, seen) / xy.shape[1] + _RIDGE * np.eye(len(features))
        both = np.einsum("mnf,nk->mfk", seen, expression)
        fits.append((both * np.linalg.solve(gram, both)).sum((1, 2)) / xy.shape[1])
    return np.concatenate(fits)


def _judged(places: _Placements, fits: Array, glass: Array, pitch: float) -> dict[str, Any]:
    """Whether one placement is ahead of all others, and which."""
    here = _distance(places, 0) <= _NEAR * pitch
    # with more spots on glass it is no better place: the edge of the tissue under the spots fits any gradient
    allowed = ~here & (glass <= glass[0] + _MORE_GLASS)
    found = {"verdict": "undecided", "fit": float(fits[here].max()), "usual": float(np.median(fits))}
    near = int(np.flatnonzero(here)[fits[here].argmax()])
    if _is_ahead(near, places, fits, glass, pitch):
        found["verdict"] = "fits"
    if allowed.any():
        best = int(np.flatnonzero(allowed)[fits[allowed].argmax()])
        found |= {"best": str(places.moves[best]), "best_fit": float(fits[best])}
        if fits[best] > fits[near] and _is_ahead(best, places, fits, glass, pitch):
            found["verdict"] = "elsewhere"
    return found


def _distance(places: _Placements, of: int) -> Array:
    """(m,) how far the spots of every placement lie from those of one, in px."""
    return np.asarray(np.sqrt(((places.xy - places.xy[of]) ** 2).sum(-1).mean(1)))


def _is_ahead(best: int, places: _Placements, fits: Array, glass: Array, pitch: float) -> bool:
    """Whether a placement fits much better than is usual, and better than the spots as they lie and all serious rivals."""
    rivals = (_distance(places, best) > _APART * pitch) & (glass <= glass[best] + _MUCH_GLASS)
    rivals |= _distance(places, 0) <= _NEAR * pitch
    rivals &= _distance(places, best) > _NEAR * pitch
    rise = float(fits[best] - np.median(fits))
    spread = float(np.subtract(*np.quantile(fits, [0.84, 0.16]))) / 2
    least = max(_LEAST_RISE, _RISE_OF_ONE / places.xy.shape[1], _HIGH * spread)
    return rise >= least and bool(fits[best] - fits[rivals].max(initial=0.0) >= _LEAD * rise)
