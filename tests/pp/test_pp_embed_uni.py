"""UNI's exact architecture, with random weights in the file of its hub, embeds a whole real slide."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._hest_files import sample_ids


def uni() -> torch.nn.Module:
    """LayerScale is 1 here: with the usual 1e-5 random features hardly vary, and nothing would be compared."""
    torch.manual_seed(0)
    model = timm.create_model("vit_large_patch16_224", init_values=1e-5, num_classes=0, dynamic_img_size=True).eval()
    for name, values in model.named_parameters():
        if name.endswith(".gamma"):
            values.data.fill_(1.0)
    return model


@pytest.mark.slow
def test_uni_embeds_a_real_slide_from_its_file(real_hest, tmp_path):
    model = uni()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    name = sample_ids(real_hest)[0]
    slide = hd.io.hest(real_hest, name)
    hd.pp.embed(slide, "uni", weights=tmp_path / "pytorch_model.bin", device="cpu")
    table = slide["spots_uni"]
    assert table.shape == (len(slide["spots"]), 1024)
    assert np.isfinite(table.X).all()
    assert table.X.std(0).mean() > 0.05
    pixels = tifffile.imread(real_hest / "wsis" / f"{name}.tif", series=0, level=0)
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for row in (0, len(table) // 2, len(table) - 1):
        centre = slide["spots"].geometry.iloc[row]
        side = int(table.uns["hisdiff_sd"]["tile_side_px"])
        x, y = int(centre.x) - side // 2, int(centre.y) - side // 2
        tile = Image.fromarray(pixels).crop((x, y, x + side, y + side)).resize((224, 224), Image.Resampling.LANCZOS)
        with torch.inference_mode():
            expected = model(prepare(tile)[None])[0].numpy()
        assert np.corrcoef(table.X[row], expected)[0, 1] > 0.9999
    torch.save({"head.weight": torch.zeros(3, 3)}, tmp_path / "other.bin")
    with pytest.raises(HisDiffError, match=r"other\.bin holds the weights of another model than 'uni'"):
        hd.pp.embed(slide, "uni", weights=tmp_path / "other.bin", key_added="other")
