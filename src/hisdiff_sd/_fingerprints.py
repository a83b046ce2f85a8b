"""What tells two ids of one slide: counts that many spots share, and small pictures that are the same."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

_SKETCH = 64  # hashes of spots that are kept
_SIDE = 16  # of the picture that is kept, in pixels
_SHARED = 0.25  # of the hashes; slides of different tissue share none
_GREY_LEVELS, _ALIKE = 3, 0.95  # pictures of one image differ by no more, in so many of their pixels


def spot_hashes(table: AnnData) -> set[int]:
    """A number for every spot, which depends on its counts by gene name: a sum of counts times a hash of the gene."""
    weight = np.array(
        [int.from_bytes(hashlib.blake2b(str(g).encode(), digest_size=8).digest(), "little") for g in table.var_names],
        np.uint64,
    )
    counts = sparse.csr_matrix(table.X)
    per_value = counts.data.round().astype(np.uint64) * weight[counts.indices]  # modulo 2^64
    spot = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    out = np.zeros(counts.shape[0], np.uint64)
    np.add.at(out, spot, per_value)
    return set(out[out != 0].tolist())


def counts_sketch(table: AnnData) -> str:
    """The smallest hashes of the spots, as hex words: of two slides with the same spots they are the same.

    A sketch in the sense of Broder, Proceedings of Compression and Complexity of Sequences 1997, 21.
    """
    return " ".join(f"{h:016x}" for h in sorted(spot_hashes(table))[:_SKETCH])


def image_sketch(image: np.ndarray) -> str:
    """A picture of 16 x 16 grey levels of an RGB image (y, x, 3), as hex digits."""
    from PIL import Image

    small = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).tobytes().hex()


def same_slides(counts: Sequence[str], images: Sequence[str]) -> dict[tuple[int, int], list[str]]:
    """Which slides are one slide under two ids.

    Parameters
    ----------
    counts, images
        Sketches of every slide, empty where there is none.

    Returns
    -------
    Pairs of positions, the smaller first, and what they share: ``"counts"``, ``"image"``.
    """
    pairs: dict[tuple[int, int], list[str]] = defaultdict(list)
    hashes = [set(text.split()) for text in counts]
    owners: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(hashes):
        for word in words:
            owners[word].append(i)
    shared = Counter(pair for slides in owners.values() for pair in itertools.combinations(slides, 2))
    for (i, j), n in shared.items():
        if n >= _SHARED * min(len(hashes[i]), len(hashes[j])):
            pairs[i, j].append("counts")
    seen = [i for i, text in enumerate(images) if text]
    grey = np.array([list(bytes.fromhex(images[i])) for i in seen], np.int16).reshape(len(seen), _SIDE**2)
    blank = np.ptp(grey, axis=1) <= _GREY_LEVELS  # nothing is seen on it
    for at, number in enumerate(seen):
        same = (np.abs(grey[at + 1 :] - grey[at]) <= _GREY_LEVELS).mean(1) >= _ALIKE
        for step in np.flatnonzero(same & ~blank[at + 1 :] & ~blank[at]):
            pairs[number, seen[at + 1 + int(step)]].append("image")
    return dict(sorted(pairs.items()))
