"""The built-in encoder on real sections; a score here is within one patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import hisdiff_sd as hd


def section(root: Path, name: str) -> tuple[torch.Tensor, np.ndarray]:
    """Tiles at the spots of a section and log2(counts + 1) of its spots."""
    import anndata as ad
    import tifffile

    table = ad.read_h5ad(root / "st" / f"{name}.h5ad")
    pixels = np.pad(
        tifffile.imread(root / "wsis" / f"{name}.tif"),
        ((112, 112), (112, 112), (0, 0)),
        constant_values=255,
    )
    tiles = [pixels[y : y + 224, x : x + 224].transpose(2, 0, 1) for x, y in table.obsm["spatial"].round().astype(int)]
    counts = table.to_df()
    return torch.from_numpy(np.stack(tiles)), np.log2(1 + counts)


def test_morphology_predicts_expression_of_a_section_it_has_not_seen(real_hest: Path) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    encoder = hd.encoders.load("morphology", device="cpu")
    (tiles, y), (new_tiles, new_y) = section(real_hest, "C3"), section(real_hest, "C4")
    genes = y.mean().nlargest(100).index.intersection(new_y.columns)
    scaler = StandardScaler().fit(x := encoder(tiles).numpy())
    model = Ridge(alpha=200).fit(scaler.transform(x), y[genes])
    predicted = model.predict(scaler.transform(encoder(new_tiles).numpy()))
    scores = [np.corrcoef(predicted[:, i], new_y[gene])[0, 1] for i, gene in enumerate(genes)]
    assert np.mean(np.sort(scores)[-50:]) > 0.65
