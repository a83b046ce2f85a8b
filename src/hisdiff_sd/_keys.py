"""Names of the elements and keys of a store, in one place."""

import re

HE = "he"
HE_SMALL = "he_small"  # small levels of an image whose pixels are elsewhere
SPOTS = "spots"
TABLE = "table"
TISSUE = "tissue"
TRANSCRIPTS = "transcripts"
PREDICTION = "hisdiff"
ATTRS = "hisdiff_sd"  # key of sdata.attrs and of table.uns
REGION = "region"
INSTANCE = "instance_id"
SCHEMA_VERSION = 1


def embedding_key(shapes_key: str, encoder: str) -> str:
    """Name of the table with an encoder's embeddings; what cannot stand in a name (``hf-hub:lab/model``) becomes "_"."""
    return f"{shapes_key}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', encoder)}"


def tiles_key(spacing_um: float) -> str:
    """Name of the grid of tiles of a spacing, such as ``tiles_50um``."""
    return f"tiles_{spacing_um:g}um"


def prediction_key(shapes_key: str) -> str:
    """Name of the table with a prediction at these shapes."""
    return PREDICTION if shapes_key == SPOTS else f"{PREDICTION}_{shapes_key}"
