from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.io._hest_files import PARTS, check_root, part, sample_ids
from hisdiff_sd.io._metadata import json_metadata, number, table_metadata, text

_WORDS = {
    "organ": "organ",
    "technology": "st_technology",
    "species": "species",
    "patient": "patient",
    "disease": "disease_state",
    "oncotree": "oncotree_code",
    "preservation": "preservation_method",
    "dataset": "dataset_title",
}
_SIZES = {"mpp": "pixel_size_um_estimated"}
_COUNTS = {
    "spots": "spots_under_tissue",
    "genes": "nb_genes",
    "width": "fullres_px_width",
    "height": "fullres_px_height",
}


def hest_samples(
    path: str | Path,
    *,
    organ: str | Iterable[str] | None = None,
    technology: str | Iterable[str] | None = None,
    species: str | Iterable[str] | None = None,
    patient: str | int | Iterable[str | int] | None = None,
    disease: str | Iterable[str] | None = None,
    oncotree: str | Iterable[str] | None = None,
    max_mpp: float | None = None,
    complete: bool = False,
) -> pd.DataFrame:
    """List the slides of a HEST folder, those that are there and those that its table knows of.

    Parameters
    ----------
    path
        Root of a HEST folder. The table of all slides (``HEST_v*.csv``), ``metadata/*.json`` and the files themselves are
        looked at; none is needed.
    organ, technology, species, patient, disease, oncotree
        Values to keep, one or several, in whatever case.
    max_mpp
        Only slides with pixels of at most so many micrometres; those of unknown pixel size are left out.
    complete
        Only slides whose image and counts are there.

    Returns
    -------
    One row per slide, in the order of the ids, which are the index. Columns of text, empty where nothing is known:
    ``organ``, ``technology``, ``species``, ``patient``, ``disease``, ``oncotree``, ``preservation``, ``dataset``. Numbers
    as the metadata say: ``mpp`` (um per level-0 px), NaN where they do not; ``spots``, ``genes``, ``width``, ``height``
    (level-0 px), whole numbers (``Int64``), NA where they do not. Bool, whether the files are there: ``st``, ``wsis``,
    ``metadata``, ``patches``, ``tissue_seg``, ``cellvit_seg``, ``xenium_seg``, ``transcripts``.

    Raises
    ------
    MissingFileError
        If there is no such folder.
    HisDiffError
        If no slide has a value that was asked for, or metadata cannot be read.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> hd.io.hest_samples(root, organ="breast", max_mpp=1.0)[["organ", "patient", "mpp"]].to_dict("index")["S1"]
    {'organ': 'Breast', 'patient': 'A', 'mpp': 1.0}
    """
    root = Path(path)
    check_root(root)
    if max_mpp is not None and not max_mpp > 0:
        raise HisDiffError(f"max_mpp={max_mpp} is no pixel size; give micrometres per level-0 px, such as 0.5")
    frame = _catalogue(root)
    asked = {
        "organ": organ,
        "technology": technology,
        "species": species,
        "patient": patient,
        "disease": disease,
        "oncotree": oncotree,
    }
    kept = np.ones(len(frame), bool)
    # every value is looked for among all slides: a filter is not wrong because another one was narrower
    for column, wanted in asked.items():
        if wanted is not None:
            kept &= _has_one_of(frame[column], [wanted] if isinstance(wanted, str | int) else wanted, column)
    if max_mpp is not None:
        kept &= (frame["mpp"] <= max_mpp).to_numpy()
    if complete:
        kept &= (frame["st"] & frame["wsis"]).to_numpy()
    return frame[kept]


def _catalogue(root: Path) -> pd.DataFrame:
    """All slides of a HEST folder."""
    known = table_metadata(root)
    described = [p.stem for p in (root / "metadata").glob("*.json") if not p.name.startswith(".")]
    ids = sorted({*known, *sample_ids(root), *described})
    rows: list[dict[str, Any]] = []
    for name in ids:
        values = {**known.get(name, {}), **json_metadata(root, name)}
        there = {folder: False for folder, _ in PARTS.values()}
        for piece, (folder, _) in PARTS.items():
            there[folder] |= part(root, name, piece).exists()
        words = {column: text(values, key) for column, key in _WORDS.items()}
        numbers = {column: number(values, key) for column, key in (_SIZES | _COUNTS).items()}
        rows.append(words | numbers | there)
    frame = pd.DataFrame(rows, index=pd.Index(ids, name="id"), columns=[*_WORDS, *_SIZES, *_COUNTS, *_folders()])
    frame = frame.astype({**dict.fromkeys(_SIZES | _COUNTS, np.float64), **dict.fromkeys(_folders(), bool)})
    frame[[*_COUNTS]] = frame[[*_COUNTS]].round()  # what is no whole number is no count
    return frame.astype(dict.fromkeys(_COUNTS, "Int64"))


def _folders() -> list[str]:
    return list(dict.fromkeys(folder for folder, _ in PARTS.values()))


def _has_one_of(values: pd.Series, wanted: Iterable[str | int], column: str) -> np.ndarray:
    """Which rows have one of the values, whatever their case."""
    there = {v.casefold(): v for v in sorted(set(values)) if v}
    lower = {str(value).casefold(): str(value) for value in wanted}
    for value in lower.keys() - there.keys():
        check_one_of(lower[value], there.values(), column)
    return values.str.casefold().isin(lower).to_numpy()
