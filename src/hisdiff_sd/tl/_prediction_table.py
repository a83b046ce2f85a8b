"""What is kept of the samples of a slide, and the table it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._provenance import provenance, set_provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._slide import dress_table, parse_table, spatial_uns
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.tl._protocol import protocol_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

FEWEST_FOR_TAILS = 19
_MANY_SPOTS = 20_000


def check_kept(keep: int | None, n_samples: int) -> None:
    """Refuse to keep more samples than are drawn."""
    if keep is not None and not 0 <= keep <= n_samples:
        raise HisDiffError(f"keep_samples={keep} of n_samples={n_samples} cannot be kept; give 0 to {n_samples}")


@dataclass(frozen=True)
class Summary:
    """Which figures of the samples are kept, and as what.

    Attributes
    ----------
    genes
        Columns of the panel that are kept.
    layers
        Names of the layers, in the order in which `of` gives them, behind the mean.
    dtype
        Of the layers: tables of many spots, which are read whole, are kept small.
    """

    genes: np.ndarray
    layers: tuple[str, ...]
    dtype: type

    @classmethod
    def for_spots(cls, n_spots: int, n_samples: int, genes: np.ndarray, keep: int | None = None) -> Summary:
        """What is kept of so many samples of so many spots: summaries, and `keep` of the samples themselves."""
        many = n_spots > _MANY_SPOTS
        tails = ("q05", "q95") if n_samples >= FEWEST_FOR_TAILS else ()
        kept = (0 if many else 1) if keep is None else keep
        samples = tuple(f"sample_{k}" for k in range(kept))
        return cls(genes, ("std", "q50", *tails, *samples), np.float16 if many else np.float32)

    @property
    def width(self) -> int:
        """Numbers that are kept of a spot."""
        return (1 + len(self.layers)) * len(self.genes)

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Samples (n_samples, n, G) as float32 (n, width); quantiles are at Weibull positions."""
        samples = samples[:, :, self.genes]
        figures = [samples.mean(0, dtype=np.float64), samples.std(0, ddof=1 if len(samples) > 1 else 0)]
        levels = [int(name[1:]) / 100 for name in self.layers if name.startswith("q")]
        figures += list(np.quantile(samples, levels, axis=0, method="weibull"))
        figures += list(samples[: sum(name.startswith("sample_") for name in self.layers)])
        return np.concatenate(figures, axis=1).astype(np.float32)


def prediction_table(
    values: np.ndarray,
    summary: Summary,
    slide: SlideInputs,
    model: HisDiff,
    sdata: SpatialData,
    shapes_key: str,
    record: dict[str, Any],
) -> AnnData:
    """The table that annotates the shapes: mean, layers, what of it is not to be believed, and how it was made."""
    from anndata import AnnData

    mean, *layers = np.split(values, 1 + len(summary.layers), axis=1)
    table = AnnData(
        X=np.ascontiguousarray(mean),
        obs=pd.DataFrame(index=slide.index.astype(str)),
        var=pd.DataFrame(index=[model.genes[g] for g in summary.genes]),
        layers={name: v.astype(summary.dtype) for name, v in zip(summary.layers, layers, strict=True)},
    )
    dress_table(table, shapes_key, slide.xy, _drawing(sdata, shapes_key))
    found = {"training_slides": model.config.training.get("slides", []), "licences": model.config.licences}
    found["protocol"] = protocol_of(slide_attrs(sdata), model)
    set_provenance(table, record | provenance(**found) | _add_trust(table, summary, slide, model))
    return parse_table(table, shapes_key)


def _add_trust(table: AnnData, summary: Summary, slide: SlideInputs, model: HisDiff) -> dict[str, float]:
    """How far each spot is from the training slides, and how each gene did on left-out ones; figures of the slide."""
    trust = model.trust
    if trust is None:
        return {}
    if trust.genes is not None:
        table.var["loso_pcc"] = trust.genes.pcc[summary.genes].astype(np.float32)
        table.var["loso_q"] = trust.genes.q[summary.genes].astype(np.float32)
        table.var["reliable"] = trust.genes.reliable[summary.genes]
    score = trust.ood.score(slide.embedding)
    table.obs["ood"] = score.astype(np.float32)
    table.obs["trusted"] = score <= 1
    return {"ood_median": float(np.median(score)), "trusted_share": float(np.mean(score <= 1))}


def _drawing(sdata: SpatialData, shapes_key: str) -> dict[str, Any]:
    """``uns["spatial"]`` for the prediction: that of the measured table, else drawn from the image."""
    from hisdiff_sd._thumbnail import thumbnail_of

    if shapes_key == keys.SPOTS and keys.TABLE in sdata.tables and "spatial" in sdata.tables[keys.TABLE].uns:
        return dict(sdata.tables[keys.TABLE].uns["spatial"])
    image, scale = thumbnail_of(sdata)
    shapes = slide_shapes(sdata, shapes_key)
    return spatial_uns(slide_attrs(sdata)["slide"], image, scale, shapes.spacing_px or shapes.diameter_px)
