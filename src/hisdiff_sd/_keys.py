"""Names of the elements and keys of a store, in one place."""

import re

HE = "he"
SPOTS = "spots"
TABLE = "table"
PREDICTION = "hisdiff"
ATTRS = "hisdiff_sd"  # key of sdata.attrs and of table.uns
REGION = "region"
INSTANCE = "instance_id"
SCHEMA_VERSION = 1


def embedding_key(shapes_key: str, encoder: str) -> str:
    """Name of the table with an encoder's embeddings; what cannot stand in a name (``hf-hub:lab/model``) becomes "_"."""
    return f"{shapes_key}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', encoder)}"
