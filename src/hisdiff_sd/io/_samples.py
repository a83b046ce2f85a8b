"""The slides of a cohort: those of a HEST root, or the rows of a sample sheet."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, MissingFileError, check_one_of
from hisdiff_sd.io import _fingerprint as fingerprint
from hisdiff_sd.io._hest_files import part, sample_ids
from hisdiff_sd.io._metadata import number, read_metadata

if TYPE_CHECKING:
    from spatialdata import SpatialData

OUTLINES = "outlines of the tissue"  # in a fingerprint
READERS = ("hest", "visium", "wsi")
_ABOUT = ("patient", "species", "organ", "dataset")
_COLUMNS = ("id", "reader", "path", "image", "mpp", *_ABOUT)
# a newer catalogue says more of a slide; that makes no other slide of it
_READ_BY_HEST = (
    *("st_technology", "pixel_size_um_estimated", "spot_diameter", "inter_spot_dist"),
    *("patient", "species", "organ", "dataset_title"),
)
_COUNTS = ("*filtered_feature_bc_matrix.h5", "spatial/tissue_positions*.csv", "spatial/scalefactors_json.json")


@dataclass(frozen=True)
class Sample:
    """A slide and where its files are.

    Attributes
    ----------
    id
        Its name, and that of its store.
    reader
        ``"hest"``, ``"visium"`` or ``"wsi"``.
    path
        The HEST root, or the ``outs`` folder of Space Ranger.
    image
        The H&E image of a Visium or bare slide.
    mpp
        Micrometres per pixel, if it is given.
    about
        Patient, species, organ, dataset, as far as they are given; they take the place of what the reader finds.
    """

    id: str
    reader: str
    path: Path | None = None
    image: Path | None = None
    mpp: float | None = None
    about: dict[str, str] = field(default_factory=dict)

    @property
    def image_file(self) -> Path:
        """The file with the pixels."""
        if self.image is not None:
            return self.image
        assert self.path is not None
        return part(self.path, self.id, "wsis")

    def read(self) -> SpatialData:
        """The slide, lazily, with the fingerprint of its source in its attributes."""
        from hisdiff_sd.io._hest import hest
        from hisdiff_sd.io._visium import visium
        from hisdiff_sd.io._wsi import wsi

        if self.reader == "hest":
            sdata = hest(self.path or "", self.id, mpp=self.mpp)
        elif self.reader == "visium":
            sdata = visium(self.path or "", self.image_file, slide=self.id, mpp=self.mpp)
        else:
            sdata = wsi(self.image_file, self.mpp, slide=self.id)
        attrs = sdata.attrs[keys.ATTRS]
        attrs.update(self.about)
        attrs["source"] = {**attrs["source"], "fingerprint": self.fingerprint()}
        return sdata

    def fingerprint(self) -> dict[str, str]:
        """What a store must have been made of to be the one of this slide."""
        said: dict[str, Any] = {"reader": self.reader, "mpp": self.mpp, "about": self.about}
        counts: list[Path] = []
        if self.reader == "hest" and self.path is not None:
            counts = [part(self.path, self.id, "st")]
            metadata = read_metadata(self.path, self.id)
            said["metadata"] = {key: metadata.get(key) for key in _READ_BY_HEST}
        elif self.path is not None:
            counts = sorted(file for pattern in _COUNTS for file in self.path.glob(pattern))
        found = {"image": fingerprint.of_file(_there(self.image_file))}
        if counts:
            found["counts"] = "+".join(fingerprint.of_file(_there(file)) for file in counts)
        found["what is said of it"] = fingerprint.of_values(said)
        if self.reader == "hest" and self.path is not None:
            outlines = part(self.path, self.id, "tissue_seg")
            if outlines.is_file():
                found[OUTLINES] = fingerprint.of_file(outlines)
        return found


def samples_of(src: str | Path, wanted: Iterable[str] | None = None) -> list[Sample]:
    """The slides of a HEST root or a sample sheet; of them, in their order, those that are wanted."""
    source = Path(src).absolute()
    if source.is_dir():
        found = [Sample(name, "hest", path=source) for name in sample_ids(source)]
        if not found:
            raise MissingFileError(
                f"no slides in {source}: a HEST root has the folders wsis/, st/ and metadata/, or their files side by side; "
                "slides that lie otherwise are named by a sample sheet, a CSV file"
            )
    elif source.is_file():
        found = _of_sheet(source)
    else:
        raise MissingFileError(f"no HEST root and no sample sheet {source}")
    if wanted is None:
        return found
    ids = [wanted] if isinstance(wanted, str) else list(wanted)
    if not ids:
        raise HisDiffError(f"samples= names no slide; leave it out to convert all {len(found)} of {source}")
    named = {sample.id: sample for sample in found}
    missing = [name for name in ids if name not in named]
    if missing:
        near = difflib.get_close_matches(str(missing[0]), list(named), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise HisDiffError(f"{source} has no slide {missing[0]!r}; it has {len(named)}, such as {found[0].id!r}{hint}")
    return [named[name] for name in dict.fromkeys(ids)]


def _of_sheet(sheet: Path) -> list[Sample]:
    """The rows of a sample sheet."""
    separator = "\t" if sheet.suffix.lower() in (".tsv", ".txt") else ","
    try:
        rows = pd.read_csv(sheet, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
        raise HisDiffError(f"{sheet} cannot be read as a table ({error}); a sample sheet is a CSV file") from error
    rows.columns = [str(name).strip().lower() for name in rows.columns]
    for name in set(rows.columns) - set(_COLUMNS):
        # other columns are the user's own, unless one was meant to be ours
        near = difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.75)
        if near and near[0] not in rows.columns:
            raise HisDiffError(f"{sheet} has a column {name!r}; is {near[0]!r} meant? Columns: {', '.join(_COLUMNS)}")
    if "id" not in rows or rows.empty:
        lacks = "no rows" if "id" in rows else "no column 'id'"
        raise HisDiffError(
            f"{sheet} has {lacks}; a sample sheet has a row per slide and the columns {', '.join(_COLUMNS)}"
        )
    samples = [_of_row(row, sheet, line) for line, row in enumerate(rows.to_dict("records"), start=2)]
    seen: dict[str, str] = {}
    for sample in samples:
        low = sample.id.lower()  # many file systems do not tell S1 from s1
        if low in seen:
            raise HisDiffError(f"{sheet} names slide {sample.id!r} twice; give every slide an id of its own")
        seen[low] = sample.id
    return samples


def _of_row(row: dict[str, str], sheet: Path, line: int) -> Sample:
    where = f"line {line} of {sheet}"
    values = {str(name): str(value).strip() for name, value in row.items()}
    name = values["id"]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise HisDiffError(f"{where}: {name!r} cannot be an id; letters, digits, '_', '.' and '-' can be used")
    path, image = (sheet.parent / values[c] if values.get(c) else None for c in ("path", "image"))
    reader = values.get("reader", "").lower() or ("wsi" if path is None else "hest" if image is None else "visium")
    check_one_of(reader, READERS, f"reader (slide {name!r}, {where})")
    needed = {"hest": {"path"}, "visium": {"path", "image"}, "wsi": {"image"}}[reader]
    given = {column for column, value in (("path", path), ("image", image)) if value is not None}
    if given != needed:
        raise HisDiffError(
            f"{where}: slide {name!r} is read by {reader}, which needs {' and '.join(sorted(needed))}; the sheet gives "
            f"{' and '.join(sorted(given)) or 'neither'}"
        )
    mpp = number(values, "mpp")
    if values.get("mpp") and mpp is None:
        raise HisDiffError(
            f"{where}: mpp {values['mpp']!r} is no pixel size; micrometres per pixel are needed, such as 0.5"
        )
    return Sample(name, reader, path, image, mpp, {key: values[key] for key in _ABOUT if values.get(key)})


def _there(file: Path) -> Path:
    if not file.is_file():
        raise MissingFileError(f"no file {file}; fetch it, or mend the path")
    return file
