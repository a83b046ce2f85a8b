"""Bare H&E slides: an image and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _pixel_size
from hisdiff_sd.io._image import file_kind, open_image, pyramid
from hisdiff_sd.io._slide import check_mpp, slide_record

if TYPE_CHECKING:
    from spatialdata import SpatialData

TECHNOLOGY = "H&E only"
_LOOKED_AT = {
    "tiff": "OME-XML, Aperio ImageDescription, ImageJ metadata, TIFF resolution tags",
    "openslide": "openslide.mpp-x and openslide.mpp-y",
    "flat": "nothing, as PNG and JPEG keep the resolution of printers",
}


def wsi(
    path: str | Path,
    mpp: float | None = None,
    *,
    slide: str | None = None,
    patient: str = "",
    species: str = "",
    organ: str = "",
) -> SpatialData:
    """Read a bare H&E slide, lazily.

    SVS, OME-TIFF, pyramidal and plain TIFF, PNG and JPEG; and with the packages openslide-python and openslide-bin what
    OpenSlide opens besides (NDPI, MRXS, SCN, BIF, ...). Label and macro images and everything else a scanner writes
    about the patient, the slide or its operator are left behind.

    Parameters
    ----------
    path
        The image file.
    mpp
        Micrometres per level-0 pixel. By default what the file says: OME-XML, Aperio's description, OpenSlide, or
        resolution tags that a slide can have. PNG and JPEG say nothing.
    slide
        Id of the slide. By default the file's name without its ending; give another one if that may identify a patient,
        and the name of the file is kept nowhere.
    patient, species, organ
        What is known of the slide, a pseudonym of the patient such as ``"P7"``; kept in its attributes.

    Returns
    -------
    SpatialData with ``he`` (multiscale uint8 image) and the coordinate systems ``global`` (level-0 px) and ``microns``;
    no spots and no counts. No full-resolution pixel is read.

    Raises
    ------
    MissingFileError
        If there is no such file.
    HisDiffError
        If the pixel size is unknown or pixels are not square, the image is no 8-bit RGB, is truncated or damaged, or is
        larger than can be: PNG, JPEG and single tiles or strips of a TIFF of more than 2 GiB decoded.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.wsi(root / "wsis" / "S1.tif", mpp=1.0)
    >>> sdata.attrs["hisdiff_sd"]["true_size"]
    [800, 900]
    """
    from spatialdata import SpatialData

    file = Path(path)
    given = None if mpp is None else check_mpp(mpp)
    kind = file_kind(file)
    image = open_image(file)
    said = _pixel_size.of_file(file)
    size, source = _pixel_size.choose(file, said, _LOOKED_AT[kind], given)
    if slide is not None and not slide.strip():
        raise HisDiffError("slide= is empty; give an id, or leave it out to take the name of the file")
    name = file.stem.removesuffix(".ome") if slide is None else slide
    record = slide_record(
        name,
        image,
        {"image": name + file.suffix, "image_bytes": file.stat().st_size},
        mpp=size,
        mpp_source=source,
        about={"technology": TECHNOLOGY, "patient": patient, "species": species, "organ": organ},
        found={"pixel_sizes": _pixel_size.by_source(said)},
    )
    return SpatialData(images={keys.HE: pyramid(image, size)}, attrs={keys.ATTRS: record})
