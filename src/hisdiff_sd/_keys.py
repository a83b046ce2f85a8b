"""Names of the elements and keys of a store, in one place."""

import re

HE = "he"
HE_SMALL = "he_small"  # small levels of an image whose pixels are elsewhere
SPOTS = "spots"
TABLE = "table"
TISSUE = "tissue"
CELLS = "cells"
TRANSCRIPTS = "transcripts"
PREDICTION = "hisdiff"
ATTRS = "hisdiff_sd"  # key of sdata.attrs and of table.uns
REGION = "region"
INSTANCE = "instance_id"
SCHEMA_VERSION = 1
# names that zarr keeps for itself, and those that Windows keeps for devices, whatever their ending
RESERVED = re.compile(r"zarr\.json|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 60  # characters, of up to four bytes; file systems take 255 bytes

# how independent a slide is of the training, as predictions and scores say
TRAINED_ON = "training slide"
WITHIN_PATIENT = "held-out slide, within patient"


def library_key(slide: str) -> str:
    """Name of a slide in ``uns["spatial"]``, which becomes a folder of the store: no path, on any system."""
    name = re.sub(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]', "_", slide).strip(" .")[:_LONGEST]
    return f"_{name}" if not name or RESERVED.fullmatch(name) else name


def embedding_key(shapes_key: str, encoder: str) -> str:
    """Name of the table with an encoder's embeddings; what cannot stand in a name (``hf-hub:lab/model``) becomes "_"."""
    return f"{shapes_key}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', encoder)}"


def tiles_key(spacing_um: float) -> str:
    """Name of the grid of tiles of a spacing, such as ``tiles_50um``."""
    return f"tiles_{spacing_um:g}um"


def prediction_key(shapes_key: str) -> str:
    """Name of the table with a prediction at these shapes."""
    return PREDICTION if shapes_key == SPOTS else f"{PREDICTION}_{shapes_key}"
