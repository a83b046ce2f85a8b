"""On an accelerator: embedding beside the encoder alone on tiles that lie on the device; sampling beside the published loop.

    python benchmarks/gpu.py --json FILE

Needs torch, timm, numpy and zarr alone, so that it runs on a bare GPU machine: from a checkout, with PYTHONPATH=src.
The slide is made up, the weights are random: neither changes the speed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import zarr
from _common import machine, write_json
from _gpu_sampling import sampling_figures, synchronise

from hisdiff_sd.tiles import ZarrSource, load_tiles, plan_tiles

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder:
    """A timm model with random weights, as the package runs it: uint8 tiles in, float32 vectors out, on the device."""

    def __init__(self, name: str, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        self.model = timm.create_model(name, pretrained=False, num_classes=0).to(device).eval()
        self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        pixels = tiles.to(self.device).float().div_(255).sub_(self.mean).div_(self.std)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self.model(pixels).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--model", default="vit_large_patch16_224")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=30_000, help="side of the slide in px")
    parser.add_argument("--tile", type=int, default=SIDE, help="side of a tile in px, resized to 224 on the device")
    parser.add_argument("--tiles", type=int, default=12_000, help="tiles that are embedded in each run")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=["embedding", "sampling"], default=["embedding", "sampling"])
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    figures: dict = {"device": name, "torch": torch.__version__}
    if "embedding" in options.parts:
        figures |= embedding_figures(options, device)
    if "sampling" in options.parts:
        figures["sampling"] = sampling_figures(device, options.pairs)
    write_json(options.json, figures)


def embedding_figures(options: argparse.Namespace, device: torch.device) -> dict:
    """Tiles per second, end to end and of the encoder alone."""
    encoder = Encoder(options.model, device, options.precision)
    with tempfile.TemporaryDirectory() as folder:
        source = ZarrSource(make_slide(Path(folder) / "slide.zarr", options.side))
        steps = np.arange(0, options.side - options.tile + 1, options.tile)
        corners = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)[: options.tiles]
        plan = plan_tiles(corners, options.tile, source.shape, source.cell, batch_size=options.batch)
        fixed = torch.randint(0, 256, (options.batch, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
        for _ in range(3):
            encoder(fixed).cpu()
        pairs = []
        for _ in range(options.pairs):
            alone = encoder_rate(encoder, fixed, len(plan.batches))
            whole = embedding_rate(encoder, source, plan, device)
            pairs.append((alone, whole, whole / alone))
    alone, whole, share = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "model": options.model,
        "precision": options.precision,
        "batch": options.batch,
        "tile_px": options.tile,
        "tiles": len(corners),
        "encoder_tiles_per_second": alone,
        "tiles_per_second": whole,
        "gpu_share_of_encoder": share,
        "spread_of_share": [min(p[2] for p in pairs), max(p[2] for p in pairs)],
    }


def make_slide(path: Path, side: int) -> zarr.Array:
    """A slide in chunks of 512 px that compress about as tissue does: smooth colours under noise of a few grey levels."""
    rng = np.random.default_rng(0)
    array = zarr.create_array(path, shape=(3, side, side), chunks=(3, 512, 512), dtype="uint8")
    fields = [np.kron(rng.integers(60, 200, (3, 16, 16)), np.ones((32, 32), np.int64)) for _ in range(8)]
    pieces = [(field + rng.integers(0, 10, (3, 512, 512))).astype(np.uint8) for field in fields]
    for row in range(0, side, 512):
        band = np.concatenate([pieces[i] for i in rng.integers(0, 8, -(-side // 512))], axis=2)[:, :, :side]
        array[:, row : row + 512] = band[:, : side - row]
    return array


def encoder_rate(encoder: Encoder, tiles: torch.Tensor, batches: int) -> float:
    """Tiles per second of the encoder on a batch that is on the device already."""
    synchronise(encoder.device)
    start = time.perf_counter()
    for _ in range(batches):
        vectors = encoder(tiles)
    vectors.cpu()
    return batches * len(tiles) / (time.perf_counter() - start)


def embedding_rate(encoder: Encoder, source: ZarrSource, plan, device: torch.device) -> float:
    """Tiles per second from the store to vectors on the CPU, one batch late, as `hd.pp.embed` does it."""
    synchronise(device)
    start = time.perf_counter()
    waiting, n = None, 0
    for batch in load_tiles(source, plan, tile_px=SIDE, device=device):
        vectors = encoder(batch.tiles)
        if waiting is not None:
            n += len(waiting.cpu())
        waiting = vectors
    n += len(waiting.cpu())
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
