from __future__ import annotations

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from hisdiff_sd._errors import HisDiffError, MissingFileError, check_one_of
from hisdiff_sd.datasets import _files
from hisdiff_sd.datasets._expression import draw_counts, draw_expression, rate_of_morphology
from hisdiff_sd.datasets._extras import write_extras
from hisdiff_sd.datasets._genes import PROGRAMMES, draw_genes
from hisdiff_sd.datasets._nuclei import draw_nuclei
from hisdiff_sd.datasets._spots import TECHNOLOGIES, Technology, lay_spots, look_under
from hisdiff_sd.datasets._stain import draw_stain, stain_section
from hisdiff_sd.datasets._tissue import draw_tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff_sd.datasets._genes import Genes
    from hisdiff_sd.datasets._nuclei import Nuclei
    from hisdiff_sd.datasets._tissue import Tissue


_MAP_UM = 50.0  # distance of the points at which the truth of a whole section is kept


@dataclass(frozen=True)
class _Plan:
    """What all slides of a call share."""

    root: Path
    technology_name: str
    size_um: tuple[float, float]
    mpp: float
    seed: int
    compression: str
    genes: Genes
    extras: bool

    @property
    def technology(self) -> Technology:
        return TECHNOLOGIES[self.technology_name]


def synthetic(
    out: str | Path,
    *,
    slides: Sequence[str] = ("S1", "S2", "S3", "S4"),
    technology: str = "Spatial Transcriptomics",
    size_um: tuple[float, float] = (2900.0, 2700.0),
    mpp: float = 0.7,
    n_genes: int = 200,
    slides_per_patient: int = 2,
    compression: str = "jpeg",
    extras: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write synthetic slides in the folder layout of HEST-1k, with counts whose causes are known.

    A section is drawn from random fields: tumour nests, fibrous stroma, fat and immune clusters, stained by the
    Beer-Lambert law. Counts are negative binomial. Their means follow the tissue under the spot and its nuclear
    density, plus what no image shows: a smooth hidden programme, and residuals that the genes of a programme share.
    Stains differ between slides, the levels of the genes between patients. `synthetic_truth` gives the parts back.

    Parameters
    ----------
    out
        Folder to write; made if missing. It has to be empty unless `overwrite` is set.
    slides
        Ids of the slides. A slide depends on its id, patient and the options below, not on the other slides.
    technology
        ``"Spatial Transcriptomics"`` (100 um spots, square grid of 200 um), ``"Visium"`` (55 um spots, hexagonal grid of
        100 um), ``"Visium HD"`` or ``"Xenium"`` (square bins of 128 or 100 um, with metadata as wrong as HEST's).
    size_um
        Width and height of a slide in um. The default holds some 140 Spatial Transcriptomics spots on 4143 x 3857 px.
    mpp
        Pixel size in um.
    n_genes
        Number of genes, 7 or more.
    slides_per_patient
        That many consecutive slides are of one patient: "A", "B", ...
    compression
        ``"jpeg"`` or ``"deflate"``, of the TIFF.
    extras
        Write HEST's other folders as well: outlines of the tissue, nuclei as CellViT gives them, patches, and of a Xenium
        slide its cells, nuclei and transcripts, of which the counts are the sums.
    seed
        Same seed and options, same files.
    overwrite
        Replace what an earlier call wrote into `out`; a folder with anything but synthetic slides is never touched.

    Returns
    -------
    The folder, as a path: ``hd.io.hest(root, "S1")`` reads from it.

    Raises
    ------
    HisDiffError
        If an option makes no sense, no spot fits on the tissue or the folder is in use.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=["S1"], size_um=(900, 800), mpp=1.0, n_genes=20)
    >>> sorted(p.name for p in root.iterdir())
    ['HEST_v1_1_0.csv', 'metadata', 'st', 'thumbnails', 'truth', 'wsis']
    """
    check_one_of(technology, TECHNOLOGIES, "technology")
    check_one_of(compression, ("jpeg", "deflate"), "compression")
    _check_options(slides, size_um, mpp, n_genes, slides_per_patient)
    root = Path(out)
    _make_room(root, overwrite=overwrite)
    genes = draw_genes(np.random.default_rng([seed, 1]), n_genes)
    plan = _Plan(root, technology, size_um, mpp, seed, compression, genes, extras)
    records = [_write_slide(plan, name, i // slides_per_patient) for i, name in enumerate(slides)]
    _files.write_table(root / _files.TABLE, records)
    return root


def synthetic_truth(root: str | Path, sample_id: str, *, whole_section: bool = False) -> ad.AnnData:
    """What lies behind the counts of a slide that `synthetic` wrote.

    Parameters
    ----------
    root
        The folder that `synthetic` returned.
    sample_id
        Id of the slide.
    whole_section
        Not the truth at the spots, but all over the section: as if a spot lay at every point of a square grid of 50 um.

    Returns
    -------
    The spots of the slide's table, in its order. Per spot and gene, (n_spots, n_genes), float64: ``X``, the expected
    counts; ``layers["rate"]``, the expected share of the spot's counts; ``layers["rate_morphology"]``, the same
    without what no image shows. Per spot: ``obs[["tumour", "stroma", "fat", "immune"]]``, shares of the spot's area
    (the rest is outside the section); ``obs["nuclear_density"]`` in nuclei per square mm; ``obs["hidden"]``, the
    hidden programme, about N(0, 1); ``obs["depth"]``, the expected total count. Per gene: ``var["programme"]``.
    ``obsm["spatial"]``: (x, y) in level-0 pixels. Of the whole section only ``X``, which is ``rate_morphology`` there, the
    shares of the area, the nuclear density and the places.

    Raises
    ------
    MissingFileError
        If there is no such slide.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> truth = hd.datasets.synthetic_truth(root, "S1")
    >>> truth.layers["rate"].sum(axis=1).round(6).tolist()[:2]
    [1.0, 1.0]
    """
    folder = Path(root) / "truth"
    path = folder / (f"{sample_id}{_files.MAP}" if whole_section else f"{sample_id}.h5ad")
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.h5ad") if not p.name.endswith(_files.MAP))) or "none"
        raise MissingFileError(f"no truth of slide {sample_id!r} in {folder}; slides there: {there}.")
    return ad.read_h5ad(path)


def _check_options(
    slides: Sequence[str], size_um: tuple[float, float], mpp: float, n_genes: int, slides_per_patient: int
) -> None:
    if isinstance(slides, str) or not slides or len(set(slides)) < len(slides):
        raise HisDiffError(f"slides={slides!r}; it has to be a list of different ids, at least one.")
    unfit = [name for name in slides if not name or Path(name).name != name]
    if unfit:
        raise HisDiffError(f"slide id {unfit[0]!r} cannot be a file name; use letters and digits.")
    if not mpp > 0:
        raise HisDiffError(f"mpp={mpp}; a pixel size in um has to be above 0.")
    if not min(size_um) >= 300 or max(size_um) / mpp > 40_000:
        raise HisDiffError(f"size_um={size_um}, mpp={mpp}; a side has to be at least 300 um and at most 40,000 px.")
    if n_genes <= len(PROGRAMMES):
        raise HisDiffError(f"n_genes={n_genes}; {len(PROGRAMMES) + 1} or more are needed, one per programme.")
    if slides_per_patient < 1:
        raise HisDiffError(f"slides_per_patient={slides_per_patient}; it has to be 1 or more.")


def _make_room(root: Path, *, overwrite: bool) -> None:
    """An empty folder with the sub-folders of the layout; only what `synthetic` wrote is ever removed."""
    if root.is_file():
        raise HisDiffError(f"{root} is a file; give a folder.")
    if root.is_dir() and any(root.iterdir()):
        if not (root / "truth").is_dir():
            raise HisDiffError(f"{root} holds files that are not synthetic slides; give an empty folder.")
        if not overwrite:
            raise HisDiffError(f"{root} holds synthetic slides; give another folder or overwrite=True.")
        for folder in (*_files.FOLDERS, *_files.EXTRA_FOLDERS):
            shutil.rmtree(root / folder, ignore_errors=True)
        (root / _files.TABLE).unlink(missing_ok=True)
    for folder in _files.FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)


def _write_slide(plan: _Plan, name: str, patient: int) -> dict[str, Any]:
    """Draw and write one slide; returns its metadata."""
    # Independent streams, so that the counts stay what they are when the drawing changes, and slides on their own.
    rng = {
        what: np.random.default_rng([plan.seed, 2, i, zlib.crc32(name.encode())])
        for i, what in enumerate(("tissue", "stain", "image", "spots", "rates", "counts"))
    }
    person = np.random.default_rng([plan.seed, 3, patient])
    shift = person.normal(0, 0.25, len(plan.genes.names))
    width, height = plan.size_um
    tissue = draw_tissue(rng["tissue"], width, height)
    nuclei = draw_nuclei(rng["tissue"], tissue)
    shape = (round(height / plan.mpp), round(width / plan.mpp))
    image = stain_section(rng["image"], tissue, nuclei, draw_stain(rng["stain"]), shape, plan.mpp)

    spots = lay_spots(rng["spots"], plan.technology, width, height)
    under = look_under(spots, plan.technology, tissue, nuclei)
    on_tissue = (under["outside"] < 0.5).to_numpy()
    if not on_tissue.any():
        raise HisDiffError(f"no spot lies on the tissue of slide {name!r}; make size_um={plan.size_um} larger.")
    spots, under = spots[on_tissue], under[on_tissue]
    truth = draw_expression(
        rng["rates"], under, spots[["x_um", "y_um"]].to_numpy(), plan.technology.diameter_um, plan.genes, shift
    )
    truth.obsm["spatial"] = spots[["x_um", "y_um"]].to_numpy() / plan.mpp
    _write_map(plan, name, tissue, nuclei, shift)
    counts = _table(spots, truth, draw_counts(rng["counts"], truth.X))
    if plan.extras:
        own = np.random.default_rng([plan.seed, 4, zlib.crc32(name.encode())])
        write_extras(own, plan.root, name, plan.technology_name, plan.mpp, image, tissue, nuclei, counts)
    return _write_files(plan, name, patient, image, counts, truth)


def _write_map(plan: _Plan, name: str, tissue: Tissue, nuclei: list[Nuclei], shift: np.ndarray) -> None:
    """Write what the morphology says of spots all over the section."""
    width, height = plan.size_um
    x, y = (a.ravel() for a in np.meshgrid(*(np.arange(_MAP_UM / 2, side, _MAP_UM) for side in (width, height))))
    points = pd.DataFrame({"x_um": x, "y_um": y}, index=[f"{a:g}x{b:g}" for a, b in zip(x, y, strict=True)])
    under = look_under(points, plan.technology, tissue, nuclei)
    here = (under["outside"] < 0.5).to_numpy()
    truth = ad.AnnData(
        rate_of_morphology(under[here], plan.genes, shift),
        obs=under[here].drop(columns="outside"),
        var=pd.DataFrame({"programme": plan.genes.programme}, index=plan.genes.names),
        obsm={"spatial": points[here].to_numpy() / plan.mpp},
    )
    truth.write_h5ad(plan.root / "truth" / f"{name}{_files.MAP}")


def _table(spots: pd.DataFrame, truth: ad.AnnData, counts: np.ndarray) -> ad.AnnData:
    """Raw counts with the columns of a HEST h5ad."""
    xy = truth.obsm["spatial"]
    obs = pd.DataFrame(
        {
            "in_tissue": 1,
            "pxl_col_in_fullres": xy[:, 0],
            "pxl_row_in_fullres": xy[:, 1],
            "array_row": spots["array_row"],
            "array_col": spots["array_col"],
        },
        index=spots.index,
    )
    return ad.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=truth.var_names), obsm={"spatial": xy.copy()})


def _write_files(
    plan: _Plan, name: str, patient: int, image: np.ndarray, counts: ad.AnnData, truth: ad.AnnData
) -> dict[str, Any]:
    height, width = image.shape[:2]
    small = _files.thumbnail(image)
    _files.write_image(plan.root / "wsis" / f"{name}.tif", image, plan.mpp, plan.compression)
    _files.write_thumbnail(plan.root / "thumbnails" / f"{name}_downscaled_fullres.jpeg", small)
    said = plan.technology.said or (plan.technology.pitch_um, plan.technology.diameter_um)
    # HEST notes Visium spots for Xenium
    diameter_px = (55.0 if plan.technology_name == "Xenium" else plan.technology.diameter_um) / plan.mpp
    _files.write_counts(plan.root / "st" / f"{name}.h5ad", counts, small, small.shape[1] / width, diameter_px)
    truth.write_h5ad(plan.root / "truth" / f"{name}.h5ad")
    record = {
        "dataset_title": "Synthetic sections with known truth",
        "id": name,
        "image_filename": f"{name}.tif",
        "organ": "Breast",
        "disease_state": "Cancer",
        "oncotree_code": "IDC",
        "species": "Homo sapiens",
        "patient": _letters(patient),
        "st_technology": plan.technology_name,
        "inter_spot_dist": said[0],
        "spot_diameter": said[1],
        "spots_under_tissue": counts.n_obs,
        "nb_genes": counts.n_vars,
        "pixel_size_um_embedded": None,
        "pixel_size_um_estimated": plan.mpp,
        "magnification": "40x" if plan.mpp < 0.4 else "20x" if plan.mpp < 0.8 else "10x",
        "fullres_px_width": width,
        "fullres_px_height": height,
        "tissue": "Breast",
    }
    _files.write_metadata(plan.root / "metadata" / f"{name}.json", record)
    return record


def _letters(number: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA"."""
    word = ""
    while number >= 0:
        word, number = chr(ord("A") + number % 26) + word, number // 26 - 1
    return word
