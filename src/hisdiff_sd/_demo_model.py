"""The model of the demo: trained, or taken up where it was trained before on the same slides with the same settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hisdiff_sd import _keys as keys
from hisdiff_sd._open import slide_name
from hisdiff_sd._targets import Target
from hisdiff_sd._version import __version__
from hisdiff_sd._whole_file import write_text

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder
    from hisdiff_sd.model import HisDiff

_RECORD = ".model.json"  # beside the model: what it was made of


def demo_model(
    out: Path,
    slides: list[SpatialData],
    genes: list[str],
    encoder: TileEncoder,
    *,
    target: Target,
    seed: int,
    say: Callable[[str], None],
) -> tuple[HisDiff, float]:
    """The model in the folder `out` / ``model``, and the seconds that its training took."""
    import hisdiff_sd as hd

    place, record = out / "model", out / _RECORD
    made_of = _digest(slides, genes, encoder, target, seed)
    there = json.loads(record.read_text(encoding="utf-8")) if record.is_file() and place.is_dir() else {}
    if there.get("made_of") == made_of:
        model = hd.HisDiff.load(place)
        if model.fingerprint == there["model"]:
            say(f"  the model in {place} is of the same slides and settings: it is used again; delete it to train anew")
            return model, float(there["seconds"])
    start = time.perf_counter()
    model = hd.tl.train(slides, genes=genes, encoder=encoder, target=target, out=place, seed=seed, overwrite=True)
    seconds = round(time.perf_counter() - start, 2)
    write_text(record, json.dumps({"made_of": made_of, "model": model.fingerprint, "seconds": seconds}) + "\n")
    return model, seconds


def _digest(slides: list[SpatialData], genes: list[str], encoder: TileEncoder, target: Target, seed: int) -> str:
    """A hash of all that the model depends on."""
    from hisdiff_sd.tl._presets import PRESETS

    settings = [__version__, genes, encoder.fingerprint, target, seed, dataclasses.asdict(PRESETS["flow"])]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for sdata in slides:
        table, embedding = sdata.tables[keys.TABLE], sdata.tables[keys.embedding_key(keys.SPOTS, encoder.name)]
        digest.update(json.dumps([slide_name(sdata), *table.obs_names, *table.var_names]).encode())
        counts = sparse.csr_matrix(table.X)
        for values in (counts.data, counts.indices, counts.indptr, embedding.X):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
