"""Embedding a slide: what loading costs beside the encoder, memory, disk, and whether the pixels are the published ones.

    python benchmarks/embed.py --hest DIR --slide ID --json FILE

Both sides are measured in one run. The large slide (40,000 x 40,000 px, made by repeating the real one) is embedded with
the morphology encoder in a process of its own, whose peak memory is read. ViT-L has random weights and LayerScale 1: with
the usual 1e-5 its features hardly vary, and nothing would be compared. An encoder that takes no time embeds a dense grid
of the large slide, and its spots, of which there are so few that writing the table counts. The figure of a GPU comes from
benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import spatialdata
import timm
import torch
from _common import hest_parser, large_store, paired, real_store, resident_mib, seconds, spot_centres, write_json
from PIL import Image
from torchvision.transforms import v2

import hisdiff_sd as hd
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.tiles import TILE_PX, boxes, load_tiles, open_levels, plan_tiles, read_tiles, resize

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 1024  # of UNI's embedding, for the bytes on disk
GRID = "tiles_dense"
PUBLISHED_COPIES = 1 + 9 + 49  # of every embedding: spot, neighbours, global


class Null:
    """An encoder that takes no time."""

    name, dim, tile_px, fingerprint, licence = "null", 8, TILE_PX, "null", "none"

    def __init__(self) -> None:
        self._vectors = torch.zeros(1024, self.dim)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        return self._vectors[: len(tiles)]


class Wide:
    """An encoder of UNI's width whose vectors are noise, which does not compress."""

    name, dim, tile_px, fingerprint, licence = "wide", WIDTH, TILE_PX, "wide", "none"

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(tiles), self.dim)


def main() -> None:
    parser = hest_parser(__doc__)
    parser.add_argument("--vit-tiles", type=int, default=32, help="tiles for ViT-L: a second or two each on a laptop")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_of_embedding(options.peak))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        store = real_store(options.hest, options.slide, work)
        large = large_store(store, options.large, work) if options.large else store
        vit = vit_l()
        morphology = hd.encoders.load("morphology", device="cpu")
        lay_grid(large)
        rate, share_of_reader = null_encoder(large, GRID, options.pairs)
        spots_rate, spots_share = null_encoder(large, "spots", options.pairs)
        figures = {
            "tiles_per_second": rate,
            "share_of_reader": share_of_reader,
            "spots_per_second": spots_rate,
            "share_of_reader_at_spots": spots_share,
            "loading_share": {
                "morphology": loading_share(store, morphology, None, options.pairs),
                "vit_large": loading_share(store, vit, options.vit_tiles, 1),
            },
            "gpu_share_of_encoder": None,
            "disk_ratio": disk_ratio(store),
            "disk_ratio_float16": disk_ratio(store, "float16"),
            "preparation": {
                "morphology": preparation(store, morphology, 64),
                "vit_large": preparation(store, vit, min(16, options.vit_tiles)),
            },
            "peak_mib": float(
                subprocess.run(
                    [sys.executable, __file__, "--hest", ".", "--slide", "-", "--peak", str(large)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.split()[-1]
            ),
        }
        figures["cosine_min"] = min(p["cosine_min"] for p in figures["preparation"].values())
    write_json(options.json, figures)


def vit_l() -> object:
    """ViT-L/16 with random weights and LayerScale 1, as an encoder of the package."""
    torch.manual_seed(0)
    model = timm.create_model("vit_large_patch16_224", init_values=1.0, num_classes=0).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    @torch.inference_mode()
    def embed(tiles: torch.Tensor) -> torch.Tensor:
        return model(tiles.float().div(255).sub(mean).div(std))

    return hd.encoders.from_callable(embed, name="vit_l", dim=1024, fingerprint="random weights")


def lay_grid(store: Path) -> None:
    """Tiles that touch each other all over a store's slide."""
    sdata = spatialdata.read_zarr(store)
    if GRID not in sdata.shapes:
        side_um = TILE_PX * sdata.attrs["hisdiff_sd"]["mpp"]
        hd.pp.tile(sdata, side_um, shapes_key=None, key_added=GRID)


def plan_of(store: Path, n: int | None = None, shapes_key: str = "spots"):
    """The source and plan of the tiles around a store's spots, or of its grid."""
    (source,) = open_levels(store / "images" / "he")[:1]
    corners, side = boxes(slide_shapes(spatialdata.read_zarr(store), shapes_key).xy[:n], TILE_PX)
    return source, plan_tiles(corners, side, source.shape, source.cell)


def null_encoder(store: Path, shapes_key: str, pairs: int) -> tuple[float, float]:
    """Tiles per second from the store to the written table with an encoder that takes no time; share of the reader's alone.

    The reader plans and reads; the other side resizes, calls the encoder, keeps partial results and writes the table besides.
    """
    source, plan = plan_of(store, shapes_key=shapes_key)
    n, encoder = len(plan.corners), Null()

    def read() -> None:
        anew = plan_tiles(plan.corners, plan.side, plan.size, source.cell)
        for _ in read_tiles(source, anew):
            pass

    def whole() -> float:
        sdata = spatialdata.read_zarr(store)
        taken = seconds(lambda: hd.pp.embed(sdata, encoder, shapes_key=shapes_key, key_added="null", overwrite=True))
        sdata.delete_element_from_disk("null")
        return n / taken

    def alone() -> float:
        return n / seconds(read)

    whole()  # imports
    rate, _, share = paired(whole, alone, pairs)
    return rate, share


def loading_share(store: Path, encoder, n: int | None, pairs: int) -> float:
    """Share of the time of embedding that is not the encoder's."""
    source, plan = plan_of(store, n)
    tiles = [batch.tiles for batch in load_tiles(source, plan, tile_px=TILE_PX, device=CPU)]
    encoder(tiles[0])

    def alone() -> float:
        return seconds(lambda: [encoder(batch) for batch in tiles])

    def whole() -> float:
        return seconds(lambda: [encoder(b.tiles) for b in load_tiles(source, plan, tile_px=TILE_PX, device=CPU)])

    *_, ratio = paired(alone, whole, pairs)
    return max(0.0, 1 - ratio)


def peak_of_embedding(store: Path) -> float:
    """Peak resident memory in MiB of this process while it embeds a store with the morphology encoder."""
    sdata = spatialdata.read_zarr(store)
    hd.pp.embed(sdata, "morphology", key_added="peak", overwrite=True, device="cpu")
    sdata.delete_element_from_disk("peak")
    return resident_mib("VmHWM")


def disk_ratio(store: Path, dtype: str = "float32") -> float:
    """Bytes of the published three files (each spot's own, 9 and 49 embeddings, float32) by those of the table."""
    sdata = spatialdata.read_zarr(store)
    hd.pp.embed(sdata, Wide(), key_added="wide", dtype=dtype, overwrite=True)
    ours = sum(f.stat().st_size for f in (store / "tables" / "wide").rglob("*") if f.is_file())
    n = sdata["wide"].n_obs
    sdata.delete_element_from_disk("wide")
    return PUBLISHED_COPIES * n * WIDTH * 4 / ours


def preparation(store: Path, encoder, n: int) -> dict[str, float]:
    """Our resize beside Pillow's, torchvision's normalisation beside the encoder's, at 448 px: pixels and embeddings."""
    (source,) = open_levels(store / "images" / "he")[:1]
    corners, side = boxes(spot_centres(store)[:n], 2 * TILE_PX)
    plan = plan_tiles(corners, side, source.shape, source.cell)
    worst, cosines = 0, []
    normalise = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for batch in read_tiles(source, plan):
        pictures = [
            Image.fromarray(tile.transpose(1, 2, 0)).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
            for tile in batch.tiles
        ]
        published = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]).contiguous()
        ours = resize(torch.from_numpy(batch.tiles), TILE_PX, "lanczos")
        worst = max(worst, int((published.int() - ours.int()).abs().max()))
        reference = encoder(published)
        if encoder.name == "vit_l":
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
            by_torchvision = torch.stack([normalise(p) for p in pictures])
            assert torch.allclose(by_torchvision, published.float().div(255).sub(mean).div(std), atol=1e-5)
        cosines += torch.nn.functional.cosine_similarity(encoder(ours), reference).tolist()
    return {"largest_pixel_difference": worst, "cosine_min": min(cosines), "cosine_median": statistics.median(cosines)}


if __name__ == "__main__":
    main()
