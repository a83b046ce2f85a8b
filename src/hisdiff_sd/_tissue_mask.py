"""Where a slide has tissue: from a small RGB image to a mask and its outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage as ndi

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Polygon

    Mask = NDArray[np.bool_]
    Grey = NDArray[np.float32]

# Densities are optical ones (base 10), relative to the empty glass of the slide: means of R, G and B, or one channel.
_FAINT = 0.02  # what is fainter is glass, or uneven light
# bounds of the density from which on even a smooth area is tissue; stain that ran out stays below
_CLEAR = (0.06, 0.15)
_TEXTURE = 0.003  # change of density per pixel; common tissue has 0.015 and more, pale tissue a quarter of it
_NOISE = 3.0  # tissue has at least so many times the texture of the glass
_TEXTURE_BITS = 2500.0  # texture as 8 bits: steps of 0.0004 up to 0.1
_SMOOTH_UM, _TEXTURE_UM, _CLOSE_UM, _OPEN_UM = 6.0, 30.0, 20.0, 35.0
# density of red; share of what is coloured; blue over red of common stains, and how much less it may be
_COLOURED, _MOST_INK, _BLUE_OF_STAIN, _BLUEST = 0.1, 0.5, 0.5, 0.6
_INK_UM, _LEAST_INK_UM2 = 30.0, 3000.0  # ink fades out over this distance; smaller than this are nuclei and pigment
_GREY = 0.8  # least over greatest density of the channels; haematoxylin and eosin stay below
_MOST_GREY = 0.5  # share of a fragment
# glass: grey levels, change of grey level per pixel of the smoothed and of the fine image, share of the image
_DARKEST_GLASS, _COLOUR_OF_GLASS, _EVEN, _SMOOTH, _LEAST_GLASS = 170, 50, 1.0, 2.5, 0.005


@dataclass(frozen=True)
class TissueMask:
    """What was found.

    Attributes
    ----------
    mask
        True on tissue, bool (y, x).
    density
        The optical density from which on a smooth area was taken for tissue.
    share
        Share of the image that looked like tissue before small and grey fragments were dropped.
    largest_um2
        Area of the largest fragment before that.
    """

    mask: Mask
    density: float
    share: float
    largest_um2: float


def tissue_mask(image: NDArray[np.uint8], um_per_px: float, *, min_area_um2: float, min_hole_um2: float) -> TissueMask:
    """Find the tissue of an H&E slide.

    A pixel is tissue if it absorbs light clearly, or somewhat and with the fine texture of tissue: so pale stroma is
    taken, and stain that ran out onto the glass is not. Ink, black edges and grey dirt are left out.

    Parameters
    ----------
    image
        RGB, uint8 (y, x, 3).
    um_per_px
        Its pixel size; 3 to 10 um are meant.
    min_area_um2, min_hole_um2
        Smaller fragments are dropped, smaller holes are filled.

    Returns
    -------
    The mask, and what was measured on the way.
    """
    from skimage.filters import threshold_otsu
    from skimage.morphology import isotropic_closing, isotropic_opening

    channels = _densities(image, _glass(image, _SMOOTH_UM / um_per_px))
    density = ndi.gaussian_filter(channels.mean(0), _SMOOTH_UM / um_per_px)
    texture = _texture(channels.mean(0), _TEXTURE_UM / um_per_px)
    foreign = _ink(channels, texture, um_per_px) | _grey_edge(channels, density, um_per_px)
    seen = density[~foreign]
    clear = float(np.clip(threshold_otsu(seen) if seen.size and np.ptp(seen) > 0 else 0.0, *_CLEAR))
    on_glass = texture[(density < _FAINT) & ~foreign]
    rough = max(_TEXTURE, _NOISE * float(np.quantile(on_glass, 0.2)) if on_glass.size else 0.0)
    found = (density > clear) | ((density > _FAINT) & (texture > rough))
    found = isotropic_closing(found & ~foreign, _CLOSE_UM / um_per_px) & ~foreign
    px_um2 = um_per_px**2
    # fat is a net of thin walls: its cells are filled before thin things are taken for hairs
    found = ~_without_small(~found, min_hole_um2 / px_um2)
    found = isotropic_opening(found, _OPEN_UM / um_per_px)
    largest = float(np.bincount(_fragments(found).ravel())[1:].max(initial=0)) * px_um2
    kept = _without_grey(_without_small(found, min_area_um2 / px_um2), channels)
    return TissueMask(kept, clear, float(found.mean()), largest)


def outlines(mask: Mask, tolerance: float = 0.75) -> list[Polygon]:
    """Polygons, with holes, around the fragments of a mask, the largest first.

    Coordinates are (x, y) in pixels from the corner of the mask; corners are cut by at most `tolerance` pixels.
    """
    from shapely import Polygon
    from skimage.measure import find_contours

    found = []
    labels = _fragments(mask)
    for number, window in enumerate(ndi.find_objects(labels), start=1):
        # a frame of False closes what touches the edge; its contour is half a pixel off the centre of the first pixel
        fragment = np.pad(labels[window] == number, 1)
        corner = np.array([window[1].start, window[0].start]) - 0.5
        rings = [Polygon(ring[:, ::-1] + corner) for ring in find_contours(fragment, 0.5)]
        shell, *holes = sorted(rings, key=lambda ring: ring.area, reverse=True)
        polygon = Polygon(shell.exterior, [hole.exterior for hole in holes]).simplify(tolerance)
        found.append(polygon if polygon.is_valid else polygon.buffer(0))
    return sorted(found, key=lambda polygon: polygon.area, reverse=True)


def _fragments(mask: Mask) -> NDArray[np.intp]:
    """Number of the fragment of every pixel, 0 outside; pixels that touch at a corner only are not connected."""
    return np.asarray(ndi.label(mask)[0])


def _without_small(mask: Mask, least_px: float) -> Mask:
    """Drop fragments of fewer pixels."""
    labels = _fragments(mask)
    kept = np.bincount(labels.ravel()) >= least_px
    kept[0] = False  # what is around them
    return kept[labels]


def _densities(image: NDArray[np.uint8], glass: NDArray[np.float32]) -> Grey:
    """Optical density of every channel, (3, y, x), without the noise of single pixels."""
    found = np.empty((3, *image.shape[:2]), np.float32)
    for c in range(3):
        table = -np.log10((np.arange(256, dtype=np.float32) + 1) / (glass[c] + 1))
        ndi.gaussian_filter(table[image[..., c]], 0.7, output=found[c])
    return found


def _glass(image: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """Colour of the empty slide: the brightest of the frequent grey levels of even, pale areas; white if there is none."""
    fine = image.mean(2, dtype=np.float32)
    grey = ndi.gaussian_filter(fine, sigma)
    even = ndi.gaussian_gradient_magnitude(grey, sigma) < _EVEN
    even &= ndi.gaussian_filter(ndi.gaussian_gradient_magnitude(fine, 1.0), sigma) < _SMOOTH
    even &= (grey > _DARKEST_GLASS) & (np.ptp(image, axis=2) < _COLOUR_OF_GLASS)
    if even.mean() < _LEAST_GLASS:
        return np.full(3, 255, np.float32)
    counts = np.bincount(grey[even].astype(np.intp), minlength=256)
    frequent = ndi.uniform_filter1d(counts.astype(float), 5, mode="constant")
    peaks = (frequent == ndi.maximum_filter1d(frequent, 9)) & (frequent * 5 > _LEAST_GLASS * grey.size)
    level = np.flatnonzero(peaks)[-1] if peaks.any() else int(frequent.argmax())
    return np.median(image[even & (np.abs(grey - level - 0.5) < 4)], axis=0).astype(np.float32)


def _texture(density: Grey, radius: float) -> Grey:
    """Median change of density per pixel around a pixel: a hair or the edge of a shadow does not raise it."""
    from skimage.filters import rank
    from skimage.morphology import disk

    change = ndi.gaussian_gradient_magnitude(density, 1.0)
    bits = np.clip(change * _TEXTURE_BITS, 0, 255).astype(np.uint8)
    median = rank.median(bits, disk(max(1, round(radius))))
    return median.astype(np.float32) / np.float32(_TEXTURE_BITS)


def _ink(channels: Grey, texture: Grey, um_per_px: float) -> Mask:
    """Pen marks and whatever is black, with their blurred rim.

    Haematoxylin absorbs green at least as much as red, and blue half as much; eosin absorbs green most. Where the stain of
    a slide is bluer than that, ink has to be bluer than the stain.
    """
    red, green, blue = channels
    low, high = channels.min(0), channels.max(0)
    coloured = red > _COLOURED
    stained = coloured & (texture > 2 * _TEXTURE)  # ink is smooth
    of_blue = of_green = 1.0
    if stained.sum() > _MOST_INK * coloured.sum():
        of_blue = float(np.clip(np.median(blue[stained] / red[stained]) / _BLUE_OF_STAIN, _BLUEST, 1))
        of_green = float(np.clip(np.median(green[stained] / red[stained]), _BLUEST, 1))
    # the core of a mark, and what belongs to it where it is connected with the core: blue, green, red, black
    rules = [
        (
            (red > 0.25) & (green < red) & (blue < 0.3 * of_blue * red),
            (red > 0.08) & (green < 1.1 * red) & (blue < 0.36 * of_blue * red),
        ),
        ((red > 0.25) & (green < 0.65 * of_green * red), (red > 0.08) & (green < 0.8 * of_green * red)),
        (
            (green > 0.4) & (blue > 0.8 * green) & (red < 0.12 * green),  # blood absorbs more red
            (green > 0.1) & (blue > 0.65 * green) & (red < 0.4 * green),
        ),
        ((low > 0.7) | ((low > 0.4) & (low > _GREY * high)), (low > 0.4) | ((low > 0.1) & (low > _GREY * high))),
    ]
    ink = np.zeros(low.shape, bool)
    for core, whole in rules:
        core = _without_small(ndi.binary_opening(core, np.ones((3, 3))), _LEAST_INK_UM2 / um_per_px**2)
        ink |= ndi.binary_propagation(core, mask=core | whole)
    return _grown(ink, _INK_UM / um_per_px)


def _grey_edge(channels: Grey, density: Grey, um_per_px: float) -> Mask:
    """Grey areas that touch the edge of the image: borders of the glass and of the cover slip."""
    labels = _fragments(_is_grey(channels) & (density > _FAINT))
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return _grown(np.isin(labels, at_edge[at_edge > 0]), _SMOOTH_UM / um_per_px)


def _grown(mask: Mask, radius: float) -> Mask:
    from skimage.morphology import isotropic_dilation

    # of an empty mask it would return the corner of the image
    return np.asarray(isotropic_dilation(mask, radius)) if mask.any() else mask


def _is_grey(channels: Grey) -> Mask:
    return channels.min(0) > np.maximum(_GREY * channels.max(0), _FAINT)


def _without_grey(found: Mask, channels: Grey) -> Mask:
    """Drop fragments without colour: dust, shadows, bubbles."""
    labels = _fragments(found)
    size, grey = np.bincount(labels.ravel()), np.bincount(labels[_is_grey(channels)], minlength=labels.max() + 1)
    kept = grey <= _MOST_GREY * size
    kept[0] = False  # what is around them
    return kept[labels]
