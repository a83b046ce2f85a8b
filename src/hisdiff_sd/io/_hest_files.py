"""Where the files of a HEST slide lie: in the folders of HEST-1k, or all in one."""

from __future__ import annotations

import difflib
from pathlib import Path

from hisdiff_sd._errors import MissingFileError

# what a slide consists of: name -> folder and the end of the file's name
PARTS = {
    "st": ("st", ".h5ad"),
    "wsis": ("wsis", ".tif"),
    "metadata": ("metadata", ".json"),
    "patches": ("patches", ".h5"),
    "tissue_seg": ("tissue_seg", "_contours.geojson"),
    "cellvit_seg": ("cellvit_seg", "_cellvit_seg.parquet"),
    "cellvit_seg_geojson": ("cellvit_seg", "_cellvit_seg.geojson.zip"),
    "xenium_cells": ("xenium_seg", "_xenium_cell_seg.parquet"),
    "xenium_nuclei": ("xenium_seg", "_xenium_nucleus_seg.parquet"),
    "transcripts": ("transcripts", "_transcripts.parquet"),
}


def part(root: Path, sample_id: str, name: str) -> Path:
    """Where a part of a slide is, or would be: in its folder, or in `root` itself where there is no such folder."""
    folder, end = PARTS[name]
    return _folder(root, folder) / f"{sample_id}{end}"


def sample_ids(root: Path) -> list[str]:
    """Ids of the slides in a folder that have counts or an image."""
    files = (p for name in ("st", "wsis") for p in _folder(root, PARTS[name][0]).glob("*" + PARTS[name][1]))
    return sorted({p.stem for p in files if not p.name.startswith(".")})


def check_root(root: Path) -> None:
    """Refuse what is no folder."""
    if not root.is_dir():
        raise MissingFileError(
            f"no folder {root}; a HEST root has the folders wsis/, st/ and metadata/, or a folder the files of one slide"
        )


def find_slide(root: Path, sample_id: str | None) -> str:
    """The id of a slide that is there; the only one if none is given."""
    check_root(root)
    ids = sample_ids(root)
    listed = ", ".join(ids[:20]) + (f" ... ({len(ids)} in all)" if len(ids) > 20 else "")
    if sample_id is None:
        if len(ids) == 1:
            return ids[0]
        raise MissingFileError(f"which slide of {root}? Give its id; there are: {listed or 'none'}")
    if sample_id not in ids:
        near = difflib.get_close_matches(sample_id, ids, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise MissingFileError(f"no slide {sample_id!r} in {root}; there are: {listed or 'none'}.{hint}")
    return sample_id


def needed(root: Path, sample_id: str, *names: str) -> list[Path]:
    """Parts of a slide that have to be there."""
    called = {"st": "counts", "wsis": "H&E image", "transcripts": "transcripts"}
    paths = [part(root, sample_id, name) for name in names]
    for path, name in zip(paths, names, strict=True):
        if not path.exists():
            raise MissingFileError(f"slide {sample_id!r} has no {called.get(name, name)}: {path} is missing; fetch it")
    return paths


def _folder(root: Path, name: str) -> Path:
    return root / name if (root / name).is_dir() else root
