from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff_sd.encoders._rows import ENCODERS

if TYPE_CHECKING:
    import pandas as pd


def table() -> pd.DataFrame:
    """Encoders that `hd.encoders.load` knows by name.

    Any other timm model, any timm model on the Hugging Face hub (``"hf-hub:owner/name"``) and any function
    (`hd.encoders.from_callable`) works as well.

    Returns
    -------
    One row per encoder: ``name``; ``hub id`` on the Hugging Face hub; ``dim``, the length of a vector; ``tile px``, the
    side of its input in pixels; ``pooling`` of tokens or of a feature map; ``licence``; ``gated``: whether its terms must
    be accepted on the hub before it can be downloaded.

    Examples
    --------
    >>> encoders = hd.encoders.table()
    >>> print(encoders.loc[encoders["name"] == "uni", ["name", "hub id", "dim", "gated"]].to_string(index=False))
    name         hub id  dim  gated
     uni MahmoodLab/UNI 1024   True
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "name": row.name,
            "hub id": row.hub_id or "(built in)",
            "dim": row.dim,
            "tile px": row.tile_px,
            "pooling": row.pooling or "-",
            "licence": row.licence,
            "gated": row.gated,
        }
        for row in ENCODERS.values()
    )
