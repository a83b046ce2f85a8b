"""Noise of a slide: per spot, shared by neighbours, and shared by the slide, so that sums over regions are honest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

_COMPONENTS = 40  # leading axes whose noise may be shared
_WAVES = 200  # of a random field
_RINGS = (0.5, 1.25, 1.6, 2.3, 3.3, 5.0)  # pitches
_LENGTHS = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # pitches
_MOST = 0.95  # largest share that is not a spot's own
_MOST_SPOTS = 1500  # of a slide that are compared with each other
_FEWEST_SPOTS = 12


@dataclass(frozen=True)
class SharedNoise:
    r"""How much of the noise along each axis of the residuals spots share with their neighbours, and with their slide.

    .. math:: u_k(s) = \sqrt{1 - \rho_k - \tau_k}\, \epsilon_k(s) + \sqrt{\rho_k}\, f_k(s) + \sqrt{\tau_k}\, c_k

    :math:`\epsilon` is a spot's own, :math:`f` a random field of correlation :math:`\exp(-d / \ell)` (random Fourier features,
    Rahimi and Recht 2007), :math:`c` one draw a slide, all standard normal: each :math:`u_k(s)` is as well, so that what is
    said of a single spot does not change. Draws come in pairs of opposite sign (antithetic variates, Hammersley and Morton
    1956): the mean over samples is as good as that of many more. Take every second one for independent samples.

    Attributes
    ----------
    neighbours, slide
        (G,) float32, :math:`\rho` and :math:`\tau`, largest axis first.
    length_um
        :math:`\ell`.
    """

    neighbours: np.ndarray
    slide: np.ndarray
    length_um: float

    @classmethod
    def none(cls, n_genes: int) -> SharedNoise:
        """Every spot for itself."""
        return cls(np.zeros(n_genes, np.float32), np.zeros(n_genes, np.float32), 1.0)

    @classmethod
    def fit(cls, residuals: Sequence[np.ndarray], xy_um: Sequence[np.ndarray]) -> SharedNoise:
        """Shares from the correlation of residuals with distance.

        Parameters
        ----------
        residuals
            (n, G) of each training slide, out of fold, along their axes and of unit variance over all slides.
        xy_um
            (n, 2) spot centres in um.
        """
        n_genes = residuals[0].shape[1]
        usable = [(u[:, :_COMPONENTS], xy) for u, xy in zip(residuals, xy_um, strict=True) if len(u) >= _FEWEST_SPOTS]
        if not usable:
            return cls.none(n_genes)
        sums = np.zeros((len(_RINGS), usable[0][0].shape[1]))
        counts, distances, pitches = np.zeros(len(_RINGS)), np.zeros(len(_RINGS)), []
        for u, xy in usable:
            pitch, found = _by_distance(u, xy)
            pitches.append(pitch)
            sums, counts, distances = sums + found[0], counts + found[1], distances + found[2]
        correlation = sums / np.maximum(counts, 1)[:, None]
        slide = correlation[-1].clip(0, _MOST)
        near, at = correlation[:-1] - slide, (distances / np.maximum(counts, 1))[:-1]
        length, share = _decay(near, at)
        share = share.clip(0, _MOST - slide)
        out = np.zeros((2, n_genes), np.float32)
        out[:, : len(slide)] = share, slide
        return cls(out[0], out[1], length * float(np.median(pitches)))

    def draw(self, seed: int, slide: str, instances: Sequence[str], xy_um: np.ndarray, n_samples: int) -> np.ndarray:
        """Noise along the axes for some spots of a slide, the same whatever other spots are asked for.

        Returns
        -------
        float32 (n_samples, n, G).
        """
        n, n_genes = len(instances), len(self.neighbours)
        own = np.sqrt(1 - self.neighbours - self.slide)
        shared = np.flatnonzero(self.neighbours + self.slide > 0)
        out = np.empty((n_samples, n, n_genes), np.float32)
        for pair in range((n_samples + 1) // 2):
            noise = np.stack(
                [noise_stream(seed, slide, i, pair).standard_normal(n_genes, dtype=np.float32) for i in instances]
            )
            noise *= own
            if len(shared):
                stream = noise_stream(seed, slide, "", pair)
                common = stream.standard_normal(len(shared))
                noise[:, shared] += np.sqrt(self.slide[shared]) * common
                noise[:, shared] += np.sqrt(self.neighbours[shared]) * _field(
                    stream, xy_um / self.length_um, len(shared)
                )
            out[2 * pair] = noise
            if 2 * pair + 1 < n_samples:
                out[2 * pair + 1] = -noise
        return out


def noise_stream(seed: int, slide: str, instance: str, sample: int) -> np.random.Generator:
    """The stream of Gaussian noise of one sample of one spot: its start, then one draw a step."""
    key = hashlib.blake2b(f"{seed}|{slide}|{instance}|{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _field(stream: np.random.Generator, xy: np.ndarray, n_fields: int) -> np.ndarray:
    """(n, n_fields) random fields of correlation exp(-distance) at `xy`."""
    # the spectrum of exp(-d) in the plane is a Student distribution of one degree of freedom
    waves = stream.standard_normal((_WAVES, 2)) / np.abs(stream.standard_normal((_WAVES, 1)))
    phase = stream.uniform(0, 2 * np.pi, _WAVES)
    amplitude = stream.standard_normal((_WAVES, n_fields)) * np.sqrt(2 / _WAVES)
    return np.cos(xy @ waves.T + phase) @ amplitude


def _by_distance(u: np.ndarray, xy: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pitch; and for every ring the sum of products (rings, K), the number of pairs and the sum of their distances."""
    # the nearest spot of a jittered grid is nearer than the pitch, the second nearest is not
    pitch = float(np.median(cKDTree(xy).query(xy, k=3)[0][:, 2]))
    if len(u) > _MOST_SPOTS:
        some = np.random.default_rng(0).choice(len(u), _MOST_SPOTS, replace=False)
        u, xy = u[some], xy[some]
    apart = np.sqrt(((xy[:, None] - xy[None]) ** 2).sum(2)) / pitch
    products, counts, distances = [], [], []
    for low, high in zip(_RINGS, (*_RINGS[1:], np.inf), strict=True):
        ring = (apart > low) & (apart <= high)
        products.append((u * (ring @ u)).sum(0))
        counts.append(ring.sum())
        distances.append(apart[ring].sum())
    return pitch, (np.array(products), np.array(counts, float), np.array(distances))


def _decay(correlation: np.ndarray, distance: np.ndarray) -> tuple[float, np.ndarray]:
    """The length at which exp(-d / length) fits the correlations (rings, K) of all components best, and their shares (K,)."""
    best: tuple[float, float, np.ndarray] | None = None
    for length in _LENGTHS:
        shape = np.exp(-distance / length)
        share = (shape @ correlation / (shape @ shape)).clip(0)
        error = float(((correlation - shape[:, None] * share) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, length, share)
    assert best is not None
    return best[1], best[2]
