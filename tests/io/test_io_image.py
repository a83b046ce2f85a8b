"""The H&E image: lazy, and every pyramid level exactly on level 0."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from spatialdata import get_pyramid_levels
from spatialdata.models import get_axes_names
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._image import open_image, pyramid, thumbnail


def scales(element) -> list[tuple[float, float]]:
    """Level-0 px per pixel in x and y of every level, after a look that nothing else moves the level."""
    found = []
    for name in sorted(element.children):
        image = element[name].image
        matrix = get_transformation(image, "global").to_affine_matrix(("x", "y"), ("x", "y"))
        assert np.array_equal(matrix, np.diag([matrix[0, 0], matrix[1, 1], 1.0]))
        found.append((matrix[0, 0], matrix[1, 1]))
    return found


def marked(height: int, width: int, marks: list[tuple[int, int]], side: int = 24) -> np.ndarray:
    """White, with black squares at (y, x)."""
    image = np.full((height, width, 3), 255, np.uint8)
    for y, x in marks:
        image[y : y + side, x : x + side] = 0
    return image


def test_marks_are_found_where_they_were_drawn_on_every_level(make_slide):
    marks = [(13, 31), (1201, 77), (517, 2330), (1999, 2101)]
    image = marked(2049, 2401, marks)
    element = hd.io.hest(make_slide(image, levels=2), "M1")["he"]
    levels = list(get_pyramid_levels(element))
    assert len(levels) == 3
    assert scales(element) == [(1, 1), (2, 2), (4, 4)]
    for level, (scale, _) in zip(levels, scales(element), strict=True):
        dark = 255.0 - level.to_numpy()[0]
        for y, x in marks:
            near = tuple(slice(int(v / scale) - 4, int((v + 24) / scale) + 5) for v in (y, x))
            rows, columns = (np.arange(s.start, s.stop) for s in near)
            weight = dark[np.ix_(rows % len(dark), columns % dark.shape[1])]
            # centre of mass, in level-0 px: the centre of pixel i of a level is (i + 1/2) * scale
            found = [(weight.sum(axis) @ (i + 0.5)) * scale / weight.sum() for axis, i in ((1, rows), (0, columns))]
            np.testing.assert_allclose(found, [y + 12, x + 12], atol=0.15)


@settings(max_examples=8, deadline=None)
@given(height=st.integers(1, 1200), width=st.integers(900, 2100), seed=st.integers(0, 9))
@example(height=1023, width=1025, seed=0)
@example(height=1, width=2047, seed=0)
@example(height=1024, width=2048, seed=0)
def test_a_pixel_of_every_level_is_the_mean_of_its_block_of_level_0(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    element = pyramid(da.from_array(image, chunks=(3, 256, 256)), 0.5)
    levels = list(get_pyramid_levels(element)) if hasattr(element, "children") else [element]
    step = 2 ** (len(levels) - 1)
    padded = np.pad(
        image, ((0, 0), (0, -height % step), (0, -width % step)), mode="constant", constant_values=255
    ).astype(float)
    assert max(levels[-1].shape[1:]) <= 1024
    for number, level in enumerate(levels):
        factor = 2**number
        blocks = padded.reshape(3, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
        assert level.dtype == np.uint8
        # each halving may round
        np.testing.assert_allclose(level.to_numpy(), blocks.mean((2, 4)), atol=number + 1e-6, rtol=0)
    if len(levels) > 1:
        assert scales(element) == [(2**n, 2**n) for n in range(len(levels))]


def test_the_padding_is_white_and_the_true_size_recorded(make_slide):
    slide = hd.io.hest(make_slide(np.zeros((1029, 2051, 3), np.uint8)), "M1")
    assert slide.attrs["hisdiff_sd"]["true_size"] == [1029, 2051]
    full = slide["he"]["scale0"].image
    assert full.shape == (3, 1032, 2052)
    assert get_axes_names(full) == ("c", "y", "x")
    assert (full[:, 1029:].to_numpy() == 255).all()
    assert (full[:, :, 2051:].to_numpy() == 255).all()
    assert not full[:, :1029, :2051].to_numpy().any()


def test_chunks_are_of_512_px_on_every_level(make_slide):
    element = hd.io.hest(make_slide(np.zeros((1100, 2100, 3), np.uint8)), "M1")["he"]
    for level in get_pyramid_levels(element):
        assert level.data.chunksize == (3, min(512, level.shape[1]), min(512, level.shape[2]))


@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
def test_no_full_resolution_pixel_is_read(make_slide, compression, tmp_path, snapshot):
    # with all tiles of level 0 spoilt, reading the slide does not notice; whoever wants those pixels does
    rng = np.random.default_rng(0)
    root = make_slide(rng.integers(0, 255, (1900, 2300, 3), dtype=np.uint8), levels=2, compression=compression)
    path = root / "wsis" / "M1.tif"
    with tifffile.TiffFile(path) as tiff:
        tiles = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for start, length in tiles:
        content[start : start + length] = bytes(length)
    path.write_bytes(content)
    slide = hd.io.hest(root, "M1")
    assert isinstance(slide["he"]["scale0"].image.data, da.Array)
    before = snapshot(tmp_path)
    with pytest.raises(HisDiffError, match=r"writing .*M1\.zarr failed .*nothing was changed"):
        hd.io.write(slide, tmp_path / "M1.zarr")
    assert {p for p in snapshot(tmp_path) if "stage" in p or not p.startswith(".M1.zarr")} == set(before)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_thumbnail_does_not_depend_on_the_levels_of_the_file(make_slide, levels):
    y, x = np.mgrid[:1801, :2405]
    smooth = np.stack([x * 255 // 2405, y * 255 // 1801, (x + y) * 255 // 4206], -1).astype(np.uint8)
    slide = hd.io.hest(make_slide(smooth, levels=levels), "M1")
    (library,) = slide["table"].uns["spatial"].values()
    small = library["images"]["hires"]
    assert small.shape == (749, 1000, 3)
    assert library["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1000 / 2405)
    middle = np.arange(0, 749, 50), np.arange(0, 1000, 50)
    expected = smooth[np.ix_((middle[0] * 1801 // 749), (middle[1] * 2405 // 1000))]
    assert np.abs(small[np.ix_(*middle)].astype(int) - expected).max() <= 2


def test_a_slide_of_which_only_level_0_is_large_enough_for_a_thumbnail(make_slide):
    image = np.full((1182, 1364, 3), 100, np.uint8)
    root = make_slide(image, levels=2)
    path = root / "wsis" / "M1.tif"
    assert thumbnail(path, open_image(path)).shape == (867, 1000, 3)


def test_planar_and_transparent_images_are_brought_to_rgb(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    planar, clear = tmp_path / "planar.tif", tmp_path / "clear.tif"
    tifffile.imwrite(planar, pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    alpha = np.concatenate([pixels, np.full((300, 200, 1), 255, np.uint8)], axis=2)
    tifffile.imwrite(clear, alpha, photometric="rgb", extrasamples=["unassalpha"])
    for path in (planar, clear):
        image = open_image(path)
        assert image.shape == (3, 300, 200)
        np.testing.assert_array_equal(image.compute().transpose(1, 2, 0), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg"])
def test_png_and_jpeg_are_read_once_and_lazily(tmp_path, name, monkeypatch):
    pixels = np.full((300, 200, 3), 80, np.uint8)
    pixels[100:200] = 160
    path = tmp_path / name
    Image.fromarray(pixels).save(path)
    opened = []
    decode = Image.Image.tobytes
    monkeypatch.setattr(Image.Image, "tobytes", lambda self, *how: opened.append(how) or decode(self, *how))
    image = open_image(path)
    assert (image.shape, image.dtype) == ((3, 300, 200), np.uint8)
    assert not opened
    assert np.abs(image.compute().transpose(1, 2, 0).astype(int) - pixels).max() <= (0 if "n" in name.lower() else 3)
    assert image[:, 5, 5].compute().shape == (3,)
    assert len(opened) == 1


def test_a_large_png_is_no_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(path)
    assert open_image(path).compute().shape == (3, 300, 200)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [(np.zeros((60, 50), np.uint8), "'L'"), (np.zeros((60, 50), np.uint16), "'I;16'")],
    ids=["grey", "16-bit"],
)
def test_a_png_that_is_no_rgb(tmp_path, pixels, kind):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    with pytest.raises(HisDiffError, match=r"a\.png .*8-bit RGB image is needed") as caught:
        open_image(path)
    assert kind in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_a_truncated_png(tmp_path, share):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(HisDiffError, match=r"a\.png .*fetch it again"):
        thumbnail(path, open_image(path))
