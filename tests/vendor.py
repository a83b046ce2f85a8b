"""What instruments and their programs write, small, with the truth behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from PIL import Image
from scipy.sparse import csr_matrix


def write_pyramid(path: Path, image: np.ndarray, levels: int = 1, compression: str | None = "zlib") -> None:
    """A tiled TIFF whose every level holds each second pixel of the one before."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            tiff.write(
                image[:: 2**level, :: 2**level],
                tile=(256, 256),
                photometric="rgb" if image.ndim == 3 else "minisblack",
                compression=compression,
                subfiletype=int(level > 0),
                metadata=None,
            )


def write_10x(path: Path, counts: np.ndarray, barcodes: Sequence[str], genes: Sequence[str]) -> None:
    """A count matrix in the HDF5 format of 10x Genomics: genes x spots, compressed by column."""
    matrix = csr_matrix(counts)  # spots x genes by row is genes x spots by column
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, "S")
        group["data"], group["indices"], group["indptr"] = matrix.data.astype(np.int32), matrix.indices, matrix.indptr
        group["shape"] = np.array(counts.shape[::-1], np.int32)
        group["features/id"] = np.array([f"ENSG{i:011d}" for i in range(len(genes))], "S")
        group["features/name"] = np.array(genes, "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * len(genes), "S")
        group["features/genome"] = np.array(["GRCh38"] * len(genes), "S")


class SpaceRanger:
    """A small ``outs`` folder and the truth behind it: 40 spots on a hexagonal grid of 50 px, so 2 um per px."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(4)
        rows, columns = np.divmod(np.arange(40), 5)
        self.xy = np.column_stack([60 + 50.0 * columns + 25 * (rows % 2), 70 + 25 * np.sqrt(3) * rows])
        self.barcodes = [f"{''.join(rng.choice(list('ACGT'), 16))}-1" for _ in self.xy]
        self.genes = ["ERBB2", "TBCE", "CD3E", "TBCE"]
        self.counts = rng.poisson(4, (40, 4))
        self.pixels = rng.integers(0, 255, (520, 400, 3), dtype=np.uint8)
        self.outs = folder / "P7" / "outs"
        self.spatial = self.outs / "spatial"
        self.spatial.mkdir(parents=True)
        self.image = folder / "section.tif"
        self.write()

    def write(self) -> None:
        """Write all files anew."""
        write_10x(self.outs / "filtered_feature_bc_matrix.h5", self.counts, self.barcodes, self.genes)
        self.write_positions("tissue_positions.csv", header=True)
        factors = {
            "spot_diameter_fullres": 32.5,
            "fiducial_diameter_fullres": 50.0,
            "tissue_hires_scalef": 0.5,
            "tissue_lowres_scalef": 0.1,
        }
        (self.spatial / "scalefactors_json.json").write_text(json.dumps(factors))
        small = Image.fromarray(self.pixels)
        small.resize((200, 260)).save(self.spatial / "tissue_hires_image.png")
        small.resize((40, 52)).save(self.spatial / "tissue_lowres_image.png")
        write_pyramid(self.image, self.pixels)

    def write_positions(self, name: str, *, header: bool) -> None:
        """Positions in another order than the counts, with spots that are not under tissue."""
        frame = pd.DataFrame(
            {
                "in_tissue": 1,
                "array_row": np.arange(40),
                "array_col": np.arange(40),
                "pxl_row_in_fullres": self.xy[:, 1],
                "pxl_col_in_fullres": self.xy[:, 0],
            },
            index=pd.Index(self.barcodes, name="barcode"),
        )
        off = frame.iloc[:3].assign(in_tissue=0).set_axis([f"{b[:-2]}X-1" for b in self.barcodes[:3]])
        shuffled = pd.concat([frame, off]).sample(frac=1, random_state=1)
        shuffled.rename_axis("barcode").to_csv(self.spatial / name, header=header)


class VisiumHD:
    """A small ``outs`` folder with bins of 8 and 16 um, at 1 um per px and slightly turned, and the truth behind it."""

    n, genes = 48, ["ERBB2", "TBCE", "CD3E"]  # bins of 8 um along a side

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(5)
        self.outs = folder / "H1" / "outs"
        self.row, self.column = (v.ravel() for v in np.mgrid[: self.n, : self.n])
        self.tissue = self.column < 40  # five squares of 64 um of six
        self.counts = rng.poisson(0.4, (self.n**2, 3)) * self.tissue[:, None]
        self.pixels = rng.integers(0, 255, (420, 430, 3), dtype=np.uint8)
        self.image = folder / "section.btf"
        write_pyramid(self.image, self.pixels)
        self.write(8, self.row, self.column, self.counts, self.tissue)
        where = self.row // 2, self.column // 2
        counts = np.zeros((24, 24, 3), int)
        np.add.at(counts, where, self.counts)
        row, column = (v.ravel() for v in np.mgrid[:24, :24])
        self.write(16, row, column, counts.reshape(-1, 3), column < 20)
        with h5py.File(self.outs / "feature_slice.h5", "w") as file:
            file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps({"file_format": "1.0"})})

    def xy(self, um: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Centres of bins in px: 20 px from the edge, columns sinking by 0.01 px per px."""
        along, down = (column + 0.5) * um, (row + 0.5) * um
        return np.column_stack([20 + along - 0.01 * down, 20 + down + 0.01 * along])

    def write(self, um: int, row: np.ndarray, column: np.ndarray, counts: np.ndarray, tissue: np.ndarray) -> None:
        """The folder of one size of bins; the positions in another order than the counts."""
        folder = self.outs / "binned_outputs" / f"square_{um:03d}um"
        (folder / "spatial").mkdir(parents=True)
        names = np.array([f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)])
        write_10x(folder / "filtered_feature_bc_matrix.h5", counts[tissue], names[tissue], self.genes)
        x, y = self.xy(um, row, column).T
        frame = pd.DataFrame({"barcode": names, "in_tissue": tissue.astype(int), "array_row": row, "array_col": column})
        frame = frame.assign(pxl_row_in_fullres=y, pxl_col_in_fullres=x)
        frame.sample(frac=1, random_state=1).to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
        factors = {"microns_per_pixel": 1.0, "bin_size_um": float(um), "spot_diameter_fullres": float(um)}
        factors |= {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1}
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))


class Xenium:
    """A small output folder of XOA 3 with an H&E image turned by a quarter, and the truth behind it."""

    genes, control, pixel_size = ["ERBB2", "CD3E"], "NegControlProbe_00001", 0.2125

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(6)
        self.out = folder / "X1" / "outs"
        self.out.mkdir(parents=True)
        # H&E: 640 x 520 px (x, y) of 0.5 um; its x is the y of the run, its y runs against the x of the run
        self.pixels = rng.integers(0, 255, (520, 640, 3), dtype=np.uint8)
        self.image = self.out / "X1_he_image.ome.tif"
        scale = 0.5 / self.pixel_size
        self.matrix = np.array([[0, -scale, 519 * scale], [scale, 0, 0], [0, 0, 1]])
        tifffile.imwrite(self.image, self.pixels, photometric="rgb", tile=(256, 256), ome=True)
        np.savetxt(self.out / "X1_he_imagealignment.csv", self.matrix, delimiter=",")
        self.cells = rng.uniform((60, 40), (200, 300), (30, 2))  # um of the run
        self.ids = [f"{'aaaaaa' + chr(97 + i // 16) + chr(97 + i % 16)}-1" for i in range(30)]
        n = 2000
        self.at = rng.uniform((-10, 0), (270, 330), (n, 2))
        self.feature = rng.choice([*self.genes, self.control], n, p=[0.6, 0.35, 0.05])
        self.quality = rng.choice([40.0, 19.9, 20.0], n, p=[0.7, 0.2, 0.1])
        self.counts = rng.poisson(5, (30, 2))
        self.write()

    def to_image(self, xy_um: np.ndarray) -> np.ndarray:
        """Places in px of the H&E image, written out: the inverse of the alignment."""
        return np.column_stack([xy_um[:, 1] / 0.5, 519 - xy_um[:, 0] / 0.5])

    def write(self) -> None:
        """Write all files of the run anew."""
        specs = {"analysis_sw_version": "xenium-3.1.0.4", "pixel_size": self.pixel_size}
        (self.out / "experiment.xenium").write_text(json.dumps(specs))
        write_10x(self.out / "cell_feature_matrix.h5", self.counts, self.ids, self.genes)
        x, y = self.cells.T
        cells = {"cell_id": self.ids, "x_centroid": x, "y_centroid": y, "cell_area": 80.0, "nucleus_area": 20.0}
        pd.DataFrame(cells).to_parquet(self.out / "cells.parquet")
        corners = np.array([[-4, -4], [4, -4], [4, 4], [-4, 4], [-4, -4]])
        outlines = (self.cells[:, None] + corners).reshape(-1, 2)
        number = np.repeat(np.arange(30), 5)
        outlines = {"cell_id": np.array(self.ids)[number], "vertex_x": outlines[:, 0], "vertex_y": outlines[:, 1]}
        pd.DataFrame(outlines | {"label_id": number + 1}).to_parquet(self.out / "cell_boundaries.parquet")
        points = {
            "feature_name": self.feature,
            "x_location": self.at[:, 0],
            "y_location": self.at[:, 1],
            "z_location": 1.0,
        }
        points |= {"transcript_id": np.arange(len(self.at)), "cell_id": "UNASSIGNED", "qv": self.quality}
        pd.DataFrame(points).to_parquet(self.out / "transcripts.parquet", row_group_size=700)
        with zarr.storage.ZipStore(self.out / "cells.zarr.zip", mode="w") as store:
            group = zarr.open_group(store, mode="w", zarr_format=2)
            ids = np.column_stack([np.arange(30), np.ones(30)]).astype(np.uint32)
            about = {"column_names": ["z_level"]}
            for name, values in {"cell_id": ids, "cell_summary": np.zeros((30, 1))}.items():
                array = group.create_array(name, shape=values.shape, dtype=values.dtype, attributes=about)
                array[:] = values
            for i in range(2):
                array = group.create_array(f"polygon_sets/{i}/cell_index", shape=(30,), dtype="uint32")
                array[:] = np.arange(30)
