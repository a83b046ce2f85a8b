"""Tissue, tiles, embeddings and the gene panel of slides."""

from hisdiff_sd.pp._embed import embed
from hisdiff_sd.pp._genes import select_genes
from hisdiff_sd.pp._tile import tile
from hisdiff_sd.pp._tissue import tissue

__all__ = ["tissue", "tile", "embed", "select_genes"]
