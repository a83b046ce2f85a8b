"""Gene panel and embeddings of slides."""

from hisdiff_sd.pp._embed import embed
from hisdiff_sd.pp._genes import select_genes

__all__ = ["embed", "select_genes"]
