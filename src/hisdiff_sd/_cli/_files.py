"""Files that commands read and write: lists of genes, tables, notes."""

from __future__ import annotations

from pathlib import Path

from hisdiff_sd._cli._options import listed
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._whole_file import write_text


def panel_of(text: str | None) -> list[str] | None:
    """The genes of a file with one a line, or of ``A,B``; None if nothing was given."""
    if text is None:
        return None
    if Path(text).is_file():
        return read_panel(Path(text))
    genes = listed(text)
    if len(genes) == 1 and ("/" in text or Path(text).suffix == ".txt"):
        raise MissingFileError(f"no file {text} with genes; give one with a gene a line, or names such as ERBB2,EPCAM")
    return genes


def read_panel(path: Path) -> list[str]:
    """Genes of a file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HisDiffError(f"{path} cannot be read as a list of genes ({error}); one gene a line is needed") from error
    genes = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not genes:
        raise HisDiffError(f"{path} lists no genes; one gene a line is needed")
    return genes


def write_panel(genes: list[str], path: Path) -> None:
    """Write genes one a line, whole or not at all."""
    write_text(path, "".join(f"{gene}\n" for gene in genes))


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written before any work is put into its content."""
    if path.exists() and not overwrite:
        raise HisDiffError(f"{path} exists already; give --overwrite to replace it, or another name")
    if not path.parent.is_dir():
        raise HisDiffError(f"cannot write {path}: there is no folder {path.parent}")
