"""Names of genes: one kind for all slides, from what the file itself says; which rows are control probes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from hisdiff_sd._errors import check_one_of

GeneNames = Literal["symbols", "ids", "file"]

_NAMES = ("symbols", "ids", "file")
_ENSEMBL = r"^ENS[A-Z]*G\d{6,}"
_VERSION = r"^(ENS[A-Z]*G\d{6,})\.\d+(_PAR_Y)?$"
# as 10x, HEST, CELLxGENE and scanpy call the column, in lower case without "_" and spaces
_OF_SYMBOLS = ("genename", "genenames", "genesymbol", "genesymbols", "symbol", "symbols", "featurename", "hgncsymbol")
_BLANK = ("", "nan", "none", "na", "<na>", "-")
_CONTROL = re.compile(
    r"^(BLANK|NegControl|NegPrb|antisense_|Unassigned|Deprecated|Intergenic|SystemControl|GenomicControl)",
    re.IGNORECASE,
)
_CONTROL_TYPE = re.compile(r"control|codeword|blank", re.IGNORECASE)
_TYPES = ("feature_types", "feature_type")


@dataclass(frozen=True)
class NamedGenes:
    """The genes of a file under the names that were asked for.

    Attributes
    ----------
    names
        One for every row of the file, not always different.
    ids
        Ensembl ids without their version, as far as the file has any; None if it has none.
    control
        Whether a row is a control probe, bool.
    facts
        What was found and done, as plain values.
    """

    names: pd.Index
    ids: pd.Series | None
    control: np.ndarray
    facts: dict[str, object]


def name_genes(var: pd.DataFrame, wanted: GeneNames) -> NamedGenes:
    """Find the names of genes in a table of them.

    Parameters
    ----------
    var
        Indexed by the names of the file; other columns may hold symbols, Ensembl ids and feature types.
    wanted
        ``"symbols"``: a row that is named by its Ensembl id gets the symbol that stands beside it; ``"ids"``: a row that is
        named by a symbol gets the id; ``"file"``: names stay. What the file does not say stays as it is.
    """
    check_one_of(wanted, _NAMES, "kind of gene names")
    index = pd.Series(var.index.astype(str).to_numpy(), dtype=object)
    control = np.array([bool(_CONTROL.match(name)) for name in index], bool) | _typed_control(var)
    bare = _without_version(index)
    is_id = _is_id(index)
    id_column, symbol_column = _column_of_ids(var), _column_of_symbols(var)
    ids = None if id_column is None else _without_version(_texts(var[id_column]))
    if is_id.any():
        ids = bare.where(is_id, "" if ids is None else ids)
    names, source = index, None
    if wanted == "symbols":
        names = bare.copy()
        if symbol_column is not None:
            symbols = _texts(var[symbol_column])
            renamed = is_id & _says(symbols) & ~_is_id(symbols)
            names, source = names.mask(renamed, symbols), symbol_column
    elif wanted == "ids":
        names = bare.copy()
        if ids is not None and id_column is not None:
            names, source = names.mask(~is_id & _is_id(ids), ids), id_column
    left = (
        names[(_is_id(names) if wanted == "symbols" else ~_is_id(names)) & ~control] if wanted != "file" else names[:0]
    )
    found = pd.Index(names).rename(None)
    facts: dict[str, object] = {
        "gene_id_type": gene_id_type(found[~control] if (~control).any() else found),
        "gene_names": {
            "wanted": wanted,
            "in_file": len(index),
            "renamed": int((names != bare).sum()) if wanted != "file" else 0,
            "from": source or "",
            "versions_removed": int((bare != index).sum()) if wanted != "file" else 0,
            "not_known": len(left),
            "not_known_examples": list(left[:5]),
        },
    }
    return NamedGenes(found, ids, control, facts)


def gene_id_type(genes: pd.Index) -> str:
    """``"ensembl"`` where most names are Ensembl gene ids, else ``"symbol"``.

    Examples
    --------
    >>> gene_id_type(pd.Index(["ERBB2", "ENSG00000141736"]))
    'symbol'
    """
    share = genes.str.match(_ENSEMBL).mean() if len(genes) else 0.0
    return "ensembl" if share > 0.5 else "symbol"


def _texts(column: pd.Series) -> pd.Series:
    """A column as text, blank where it says nothing; in the order of the rows."""
    text = pd.Series(column.to_numpy(), dtype=object)
    return text.where(text.notna(), "").astype(str).str.strip().astype(object)


def _says(texts: pd.Series) -> pd.Series:
    return ~texts.str.lower().isin(_BLANK)


def _is_id(texts: pd.Series) -> pd.Series:
    return texts.str.match(_ENSEMBL).astype(bool)


def _without_version(texts: pd.Series) -> pd.Series:
    """ENSG00000141736.14 -> ENSG00000141736; a gene on both sex chromosomes keeps its mark."""
    return texts.str.replace(_VERSION, lambda m: m[1] + (m[2] or ""), regex=True).astype(object)


def _column_of_ids(var: pd.DataFrame) -> str | None:
    """The first column most of whose values are Ensembl ids, whatever it is called."""
    texts = (
        c for c in var.columns if not pd.api.types.is_numeric_dtype(var[c]) and not pd.api.types.is_bool_dtype(var[c])
    )
    return next((str(c) for c in texts if len(var) and _is_id(_texts(var[c])).mean() > 0.5), None)


def _column_of_symbols(var: pd.DataFrame) -> str | None:
    """A column that is called like one of symbols, and has some."""
    called = {re.sub(r"[_\s]", "", str(c)).lower(): str(c) for c in var.columns}
    for name in _OF_SYMBOLS:
        if name in called:
            texts = _texts(var[called[name]])
            if (_says(texts) & ~_is_id(texts)).any():
                return called[name]
    return None


def _typed_control(var: pd.DataFrame) -> np.ndarray:
    """Control probes by the type that 10x gives every feature."""
    column = next((c for c in _TYPES if c in var), None)
    if column is None:
        return np.zeros(len(var), bool)
    return np.array([bool(_CONTROL_TYPE.search(text)) for text in _texts(var[column])], bool)
