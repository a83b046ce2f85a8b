"""What is compared in a cross-validation: rows, which learn from slides and draw samples for a slide."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tiles import Context

if TYPE_CHECKING:
    import torch

    from hisdiff_sd.tl._gather import TrainingSlides


class Fitted(Protocol):
    """What a row has learned from the training slides of one fold."""

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        """(S, n, G) samples on the target scale, each drawn for all spots and genes together.

        S is `n_samples`, or 1 for a point prediction.
        """
        ...


class Row(Protocol):
    """A method that is compared. Any object with these two can be given to `hd.tl.cross_validate`.

    Examples
    --------
    >>> import tempfile, numpy as np, hisdiff_sd as hd
    >>> class TrainingMedian:
    ...     name = "median"
    ...
    ...     def fit(self, slides, truth, context):
    ...         self.median_ = np.median(np.concatenate([m.y for m in truth]), axis=0)
    ...         return self
    ...
    ...     def samples(self, slide, n_samples, seed):
    ...         return np.tile(self.median_, (1, slide.n, 1))
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> cv = hd.tl.cross_validate(slides, by="slide", encoder="morphology", rows=["mean", TrainingMedian()])
    >>> cv.rows
    ['mean', 'median']
    """

    @property
    def name(self) -> str:
        """Unique among the rows."""
        ...

    def fit(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        """Learn from slides and what was measured on them; whatever is tuned is tuned on these alone."""
        ...


@dataclass
class FitContext:
    """What else a row may use while it learns.

    Attributes
    ----------
    data
        The training slides, with patients, encoder and geometry.
    device
        Where networks are trained.
    seed
        Of everything random.
    work
        A folder for what takes long to make; it outlives an interruption, and belongs to this fold.
    """

    data: TrainingSlides
    device: torch.device
    seed: int
    work: Path
    _made: dict[str, tuple[Any, float]] = field(default_factory=dict)
    _credit: float = 0.0

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """What other rows of this fold have made under that name already, with the seconds it took."""
        if name not in self._made:
            value, seconds = self.timed(make)
            self._made[name] = (value, seconds)
        else:
            self._credit += self._made[name][1]
        return self._made[name][0]

    def spent_before(self, seconds: float) -> None:
        """Count seconds that an earlier call has spent on what is taken up now."""
        self._credit += seconds

    def timed(self, make: Callable[[], Any]) -> tuple[Any, float]:
        """A value and the seconds that it takes to make, with those that were spent on its parts before."""
        start, before = time.perf_counter(), self._credit
        value = make()
        return value, time.perf_counter() - start + self._credit - before


@dataclass(frozen=True)
class Point:
    """A fitted row that predicts one value per spot and gene; a function may return (S, n, G) samples as well."""

    predict: Callable[[SlideInputs], np.ndarray]

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        """(1, n, G), whatever is asked for."""
        predicted = np.asarray(self.predict(slide))
        return predicted[None] if predicted.ndim == 2 else predicted


@dataclass(frozen=True)
class FunctionRow:
    """A plain function ``fit(slides, truth)`` that returns ``predict(slide)``, as a row."""

    function: Callable[[Sequence[SlideInputs], Sequence[Measured]], Callable[[SlideInputs], np.ndarray]]

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def fit(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        """Call the function."""
        return Point(self.function(slides, truth))


@dataclass(frozen=True)
class Shuffled:
    """A row that is shown the tissue of other spots of the same slide: every score of a real model gets worse.

    It learns as its inner row does (once, if both are compared); then the conditions, that is embeddings and contexts, are
    permuted among the spots of the test slide. What does not change was not learned from the image.

    Parameters
    ----------
    inner
        The row to check.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> row = hd.tl.HisDiffRow("flow", epochs=5)
    >>> rows = [row, hd.tl.Shuffled(row)]  # for hd.tl.cross_validate(slides, rows=rows)
    >>> [r.name for r in rows]
    ['hisdiff:flow', 'shuffled:hisdiff:flow']
    """

    inner: Row

    @property
    def name(self) -> str:
        """``shuffled:`` and the name of the inner row."""
        return f"shuffled:{self.inner.name}"

    def fit(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        """Fit the inner row."""
        return _ShuffledFit(fit_shared(self.inner, slides, truth, context))


@dataclass(frozen=True)
class _ShuffledFit:
    fitted: Fitted

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        return self.fitted.samples(shuffle_conditions(slide, seed), n_samples, seed)


def shuffle_conditions(slide: SlideInputs, seed: int) -> SlideInputs:
    """The slide with embeddings and contexts permuted among its spots; names and places stay."""
    order = stream(seed, "shuffle", slide.name).permutation(slide.n)
    back = np.argsort(order)

    def permuted(context: Context) -> Context:
        mask = context.mask[order]
        return Context(np.where(mask, back[context.index[order]], 0), mask)

    return dataclasses.replace(
        slide, embedding=slide.embedding[order], near=permuted(slide.near), wide=permuted(slide.wide)
    )


def fit_shared(row: Row, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    """Fit a row, or take what it has learned in this fold already."""

    def fit() -> Fitted:
        result = row.fit(slides, truth, context)
        fitted = row if result is None else result
        if not hasattr(fitted, "samples"):
            raise HisDiffError(
                f"row {row.name!r}: fit returned a {type(fitted).__name__}, which has no samples(slide, n_samples, seed)"
            )
        return fitted  # type: ignore[return-value]

    made: Fitted = context.shared(f"row {row.name}", fit)
    return made


def stream(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of a seed and names, such as that of a slide."""
    digest = hashlib.blake2b("|".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def row_settings(row: Any) -> dict[str, Any]:
    """What makes two rows of one name the same: class and settings, or the name of a function, as JSON has them.

    Attributes that begin or end with an underscore are taken for what a row has learned, not for settings.
    """
    if callable(row) and hasattr(row, "__qualname__"):
        return {"function": f"{row.__module__}.{row.__qualname__}"}
    kind = {"class": f"{type(row).__module__}.{type(row).__qualname__}"}
    values = {k: v for k, v in getattr(row, "__dict__", {}).items() if not (k.startswith("_") or k.endswith("_"))}
    return kind | {k: _plain(v) for k, v in values.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "fit") or (callable(value) and hasattr(value, "__qualname__")):
        return row_settings(value)
    return type(value).__qualname__


def check_samples_of(row: str, samples: Any, slide: SlideInputs, n_genes: int, n_samples: int) -> np.ndarray:
    """The samples of a row, if they are what they have to be."""
    array = np.asarray(samples)
    ok = array.ndim == 3 and array.shape[1:] == (slide.n, n_genes) and len(array) in (1, n_samples)
    if not ok:
        raise HisDiffError(
            f"row {row!r} gave samples of shape {array.shape} for slide {slide.name!r}; ({n_samples} or 1, {slide.n} spots, "
            f"{n_genes} genes) is needed"
        )
    if not np.isfinite(array.astype(np.float32)).all():
        raise HisDiffError(f"row {row!r} gave NaN or infinite values for slide {slide.name!r}; mend it or leave it out")
    return array
