"""Are spots that were moved, mirrored or turned told from those that lie where they should, and is nobody blamed wrongly?

    python benchmarks/qc_alignment.py --hest DIR --slides C2 C3 C4 C5 --json FILE

Every slide as it is, and with its spots moved by 1 to 5 pitches, mirrored, turned, and x and y exchanged. `alignment` says
"elsewhere"; `flagged` counts those and slides of which 15% of the spots with counts lie on glass. Placements of which more
than 5% of the spots are outside the image are left out: the reader refuses them. Then, at the right places, expression that
has nothing to do with the image (smooth random fields, and spots shuffled): none may be called misplaced, and few to
fit. Without --hest: synthetic slides of both technologies.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _common import write_json
from scipy import ndimage as ndi
from scipy.sparse import csr_matrix

import hisdiff_sd as hd
from hisdiff_sd.io._alignment import alignment

GLASS = 0.15
MOVES = {"1 pitch": (1, 0), "1.5 pitches": (0, 1.5), "2 pitches": (-2, 0), "3 pitches": (0, -3), "5 pitches": (5, 0)}
MOVES |= {f"({x}, {y}) pitches": (x, y) for x, y in ((2.5, 2.5), (-3.3, 1.4))}


class Slide:
    """Small picture, spots, counts."""

    def __init__(self, root: Path, name: str) -> None:
        sdata = hd.io.hest(root, name)
        attrs, table = sdata.attrs["hisdiff_sd"], sdata["table"]
        (library,) = table.uns["spatial"].values()
        self.image, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
        self.um, self.xy, self.counts = attrs["mpp"] / scale, table.obsm["spatial"] * scale, csr_matrix(table.X)
        self.diameter, self.pitch = attrs["spot_diameter_um"], attrs["spot_pitch_um"]

    def check(self, xy: np.ndarray, counts: csr_matrix) -> dict | None:
        inside = ((xy >= 0) & (xy < self.image.shape[1::-1])).all(1)
        if (~inside).mean() > 0.05:
            return None
        return alignment(self.image, self.um, xy[inside], counts[inside], self.diameter, self.pitch)

    def faults(self) -> Iterator[tuple[str, np.ndarray]]:
        xy, height_width = self.xy, np.array(self.image.shape[1::-1])
        middle = (xy.min(0) + xy.max(0)) / 2
        yield "as it is", xy
        for name, pitches in MOVES.items():
            yield f"moved by {name}", xy + np.array(pitches) * self.pitch / self.um
        for about, centre in (("image", height_width / 2), ("spots", middle)):
            yield f"mirrored left to right about the {about}", centre + (xy - centre) * [-1, 1]
            yield f"mirrored top to bottom about the {about}", centre + (xy - centre) * [1, -1]
            yield f"turned by 180 degrees about the {about}", 2 * centre - xy
        yield "x and y exchanged", xy[:, ::-1]

    def unrelated(self, rng: np.random.Generator) -> csr_matrix:
        """Counts of smooth fields that know nothing of the image."""
        cells = ((self.xy - self.xy.min(0)) * self.um / self.pitch * 2).astype(int)
        fields = np.stack(
            [ndi.gaussian_filter(rng.standard_normal(cells.max(0) + 1), rng.uniform(1, 4)) for _ in range(7)], -1
        )
        activity = fields[cells[:, 0], cells[:, 1]] / fields.std((0, 1))
        rate = np.exp(activity[:, :6] @ rng.normal(0, 0.5, (6, 120)) + rng.normal(0, 1, 120))
        depth = np.exp(0.5 * activity[:, 6] + 0.3 * rng.standard_normal(len(rate)))
        return csr_matrix(rng.poisson(rate / rate.sum(1, keepdims=True) * depth[:, None] * 1500).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hest", type=Path)
    parser.add_argument("--slides", nargs="+")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        slides = [Slide(options.hest, s) for s in options.slides] if options.hest else list(synthetic(Path(work)))
    told: dict[str, list[dict]] = defaultdict(list)
    blamed: dict[str, list[str]] = defaultdict(list)
    for seed, slide in enumerate(slides):
        for fault, xy in slide.faults():
            found = slide.check(xy, slide.counts)
            if found is not None:
                told[fault].append(found)
        rng = np.random.default_rng(seed)
        for _ in range(options.draws):
            blamed["smooth fields"].append(slide.check(slide.xy, slide.unrelated(rng))["verdict"])
            blamed["shuffled"].append(slide.check(slide.xy, slide.counts[rng.permutation(len(slide.xy))])["verdict"])
    faults = {
        fault: {
            "slides": len(found),
            "fits": sum(f["verdict"] == "fits" for f in found),
            "elsewhere": sum(f["verdict"] == "elsewhere" for f in found),
            "flagged": sum(f["verdict"] == "elsewhere" or f["on_glass"] >= GLASS for f in found),
        }
        for fault, found in told.items()
    }
    wrongly = {kind: {"draws": len(v)} | {k: v.count(k) for k in ("fits", "elsewhere")} for kind, v in blamed.items()}
    for name, row in (faults | wrongly).items():
        print(f"{name:45}" + "  ".join(f"{k} {v}" for k, v in row.items()))
    write_json(options.json, {"faults": faults, "unrelated": wrongly})


def synthetic(work: Path) -> Iterator[Slide]:
    for technology in ("Spatial Transcriptomics", "Visium"):
        root = hd.datasets.synthetic(work / technology[:2], slides=("S1", "S2"), technology=technology, mpp=2.0)
        for name in ("S1", "S2"):
            yield Slide(root, name)


if __name__ == "__main__":
    main()
