"""All slides of a cross-validation, opened and embedded once, and the part of them that a fold may see."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._data import measured
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._open import open_slide, slide_name
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.pp._genes import counts_table, select_genes
from hisdiff_sd.tl._gather import TrainingSlides, gather
from hisdiff_sd.tl._leakage import check_same_counts, check_same_embeddings
from hisdiff_sd.tl._splits import Split

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder

logger = logging.getLogger("hisdiff_sd")


@dataclass(frozen=True)
class Reading:
    """How slides are embedded and measured; as the arguments of `hd.tl.train`."""

    encoder: str | TileEncoder
    target: str
    tile_um: float | None
    padding: str
    weights: str | Path | None
    device: str
    table_key: str

    def gather(self, opened: Sequence[SpatialData], genes: Sequence[str] | None) -> TrainingSlides:
        """The arrays of slides; those that are embedded already are not embedded again."""
        return gather(
            opened,
            genes,
            encoder=self.encoder,
            target=self.target,
            tile_um=self.tile_um,
            padding=self.padding,
            weights=self.weights,
            device=self.device,
            table_key=self.table_key,
        )


@dataclass(frozen=True)
class FoldData:
    """What a fold learns from, and what it is judged on.

    Attributes
    ----------
    train
        The training slides, with all that is to be known of them.
    test, truth
        The test slides, and what was measured on them in the genes of the fold's panel.
    """

    train: TrainingSlides
    test: list[SlideInputs]
    truth: list[Measured]


class Cohort:
    """Slides that are opened once.

    Parameters
    ----------
    slides
        Objects, or paths of stores.
    reading
        How they are embedded and measured.
    """

    def __init__(self, slides: Sequence[SpatialData | str | Path], reading: Reading) -> None:
        if isinstance(slides, str | Path) or hasattr(slides, "images"):
            raise HisDiffError("slides= is one slide; give a list of slides")
        opened = [open_slide(s) for s in slides]
        names = [slide_name(s) for s in opened]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise HisDiffError(f"slides are given more than once: {', '.join(twice)}")
        self.slides: dict[str, SpatialData] = dict(zip(names, opened, strict=True))
        self.patients = {n: str(slide_attrs(s).get("patient") or "") for n, s in self.slides.items()}
        self.reading = reading
        check_same_counts({n: counts_table(s, reading.table_key)[1] for n, s in self.slides.items()})
        self._gathered: TrainingSlides | None = None

    def embed(self, genes: Sequence[str] | None) -> TrainingSlides:
        """Embed what is not embedded, and check that the slides go together; a panel chosen here is not used."""
        self._gathered = self.reading.gather(list(self.slides.values()), genes)
        check_same_embeddings({s.name: s.embedding for s in self._gathered.inputs})
        return self._gathered

    @property
    def gathered(self) -> TrainingSlides:
        """The arrays of all slides; their panel is not that of any fold."""
        assert self._gathered is not None
        return self._gathered

    def panel(self, split: Split) -> list[str]:
        """Genes chosen on the training slides of a fold, those that the files of its test slides list at all."""
        chosen = select_genes([self.slides[n] for n in split.train], table_key=self.reading.table_key)
        listed = [set(self.slides[n].tables[self.reading.table_key].var_names) for n in split.test]
        kept = [g for g in chosen if all(g in names for names in listed)]
        lost = sorted(set(chosen) - set(kept))
        if not kept:
            raise HisDiffError(
                f"fold {split.name!r}: none of the genes chosen on {', '.join(split.train)} is in the tables of "
                f"{', '.join(split.test)}; same species and gene names?"
            )
        if lost:
            logger.warning(
                "fold %r: %d chosen genes are not measured on the test slides and left out: %s",
                split.name,
                len(lost),
                ", ".join(lost[:10]),
            )
        return kept

    def fold(self, split: Split, genes: Sequence[str]) -> FoldData:
        """The slides of a fold, measured with its panel; what is learned sees nothing of the test slides."""
        of = {s.name: s for s in self.gathered.inputs}
        train = self.reading.gather([self.slides[n] for n in split.train], genes)
        test = [of[n] for n in split.test]
        tables = [self.slides[n].tables[self.reading.table_key] for n in split.test]
        truth = [measured(t, s.index, genes, self.reading.target, s.name) for s, t in zip(test, tables, strict=True)]
        return FoldData(train, test, truth)


def data_digest(slide: SlideInputs, totals: np.ndarray) -> str:
    """Short hash of what a slide is made of: spots, embeddings and depth."""
    digest = hashlib.sha256("|".join(map(str, slide.index)).encode())
    for array in (slide.xy, slide.embedding, totals):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
