"""Tools of others on our stores: squidpy, spatialdata-plot, wsidata, and the other supported line of spatialdata."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import hisdiff_sd as hd


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small slide of two levels, 1,100 x 1,030 px, with an embedding."""
    folder = tmp_path_factory.mktemp("interop")
    root = hd.datasets.synthetic(folder / "hest", slides=("S1",), size_um=(1100, 1030), mpp=1.0, n_genes=12)
    sdata = hd.io.write(hd.io.hest(root, "S1"), folder / "S1.zarr")
    hd.pp.embed(sdata, "morphology")
    return folder / "S1.zarr"


@pytest.fixture
def plain(store):
    """The slide as a user without this package opens it."""
    import matplotlib.pyplot as plt

    yield spatialdata.read_zarr(store)
    plt.close("all")


def centres(spots):
    """Where the circles of a collection were drawn."""
    return np.array([(b.min + b.max) / 2 for b in (path.get_extents() for path in spots.get_paths())])


def test_squidpy_draws_spots_on_the_image(plain):
    import matplotlib.pyplot as plt
    import squidpy as sq

    table, gene = plain["table"], plain["table"].var_names[0]
    sq.pl.spatial_scatter(table, color=gene)
    axes = plt.gcf().axes[0]
    (library,) = table.uns["spatial"].values()
    (spots,) = axes.collections
    scale = library["scalefactors"]["tissue_hires_scalef"]
    np.testing.assert_allclose(spots.get_array(), table[:, gene].X.toarray().ravel())
    np.testing.assert_allclose(centres(spots), table.obsm["spatial"] * scale, atol=0.1)
    assert axes.images[0].get_array().shape[:2] == library["images"]["hires"].shape[:2]


def test_squidpy_finds_neighbours(plain):
    import squidpy as sq

    table = plain["table"]
    sq.gr.spatial_neighbors(table, coord_type="generic", n_neighs=4)
    distances = table.obsp["spatial_distances"]
    first = distances.data.min()
    assert first == pytest.approx(200, rel=0.15), "spots lie 200 um apart, at 1 um per px"
    sq.gr.spatial_autocorr(table, mode="moran", genes=list(table.var_names[:2]))
    assert np.isfinite(table.uns["moranI"]["I"]).any()


def test_spatialdata_plot_draws_spots_on_the_image(plain):
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401

    gene = plain["table"].var_names[0]
    plain.pl.render_images("he").pl.render_shapes("spots", color=gene, table_name="table").pl.show("global")
    axes = plt.gcf().axes[0]
    assert axes.images
    (spots,) = axes.collections
    shapes, values = plain["spots"], plain["table"][plain["spots"].index, gene].X.toarray().ravel()
    np.testing.assert_allclose(centres(spots), np.column_stack([shapes.geometry.x, shapes.geometry.y]), atol=0.1)
    expected = plt.get_cmap("viridis")((values - values.min()) / np.ptp(values))
    np.testing.assert_allclose(spots.get_facecolor(), expected, atol=0.02)
    assert (axes.get_xlim()[1], axes.get_ylim()[0]) == (1100, 1030)


def test_wsidata_reads_the_image(plain):
    wsidata = pytest.importorskip("wsidata", reason="the optional package wsidata is not installed")
    wsi = wsidata.open_wsi(plain, image_key="he", store=None)
    levels = [level.to_numpy().transpose(1, 2, 0) for level in spatialdata.get_pyramid_levels(plain["he"])]
    assert wsi.properties.n_level == len(levels) == 2
    np.testing.assert_array_equal(wsi.read_region(200, 100, 300, 250, level=0), levels[0][100:350, 200:500])
    np.testing.assert_array_equal(wsi.read_region(0, 0, 120, 110, level=1), levels[1][:110, :120])
    assert wsi.properties.level_downsample == [1, 2]


READ = """
import sys, json, numpy as np, spatialdata, hisdiff_sd as hd
store, model, out = sys.argv[1:]
sdata = hd.io.open(store)
digests = {n: [list(t.shape), round(float(np.abs(np.asarray(t.X.toarray() if hasattr(t.X, "toarray") else t.X, float)).sum()), 3)]
           for n, t in sdata.tables.items()}
digests |= {n: round(float(s.geometry.x.sum()), 3) for n, s in sdata.shapes.items() if "radius" in s}
digests["he"] = int(sdata["he"]["scale0"]["image"].to_numpy().sum())
digests["layers"] = sorted(k for k in sdata["hisdiff"].layers.keys() if k)
digests["attrs"] = sdata.attrs["hisdiff_sd"]["slide"]
hd.pp.embed(sdata, "morphology")  # there already
hd.tl.predict(sdata, hd.HisDiff.load(model), n_samples=2, steps=2, key_added="again")
json.dump({"read": digests, "spatialdata": spatialdata.__version__}, open(out, "w"))
"""
WRITE = """
import sys, hisdiff_sd as hd
folder, = sys.argv[1:]
root = hd.datasets.synthetic(folder + "/hest", slides=("S1", "S2"), size_um=(1100, 1030), mpp=1.0, n_genes=12)
for name in ("S1", "S2"):
    sdata = hd.io.write(hd.io.hest(root, name), f"{folder}/{name}.zarr")
    hd.pp.embed(sdata, "morphology")
stores = [f"{folder}/{name}.zarr" for name in ("S1", "S2")]
model = hd.tl.train(stores, encoder="morphology", preset="small", epochs=1, genes=hd.pp.select_genes(stores)[:4])
model.save(folder + "/model")
hd.tl.predict(sdata, model, n_samples=2, steps=2)
"""


def run(python: str, code: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
def test_a_store_of_one_line_of_spatialdata_is_read_by_the_other(tmp_path, back):
    """Images, shapes, counts, embeddings, predictions and a model, written here and used there, and the other way."""
    import json

    other = os.environ.get("HISDIFF_SD_OTHER_PYTHON")
    if not other:
        pytest.skip(
            "no other Python: set HISDIFF_SD_OTHER_PYTHON to one with this package and the other line of spatialdata"
        )
    writer, reader = (other, sys.executable) if back else (sys.executable, other)
    run(writer, WRITE, tmp_path)
    shutil.copytree(tmp_path / "S2.zarr", tmp_path / "copy.zarr")
    run(writer, READ, tmp_path / "S2.zarr", tmp_path / "model", tmp_path / "writer.json")
    run(reader, READ, tmp_path / "copy.zarr", tmp_path / "model", tmp_path / "reader.json")
    at_home, away = (json.loads((tmp_path / f"{who}.json").read_text()) for who in ("writer", "reader"))
    assert away["read"] == at_home["read"]
    assert away["spatialdata"] != at_home["spatialdata"]
    # what the reader wrote is read by the writer
    run(
        writer,
        "import sys, spatialdata; print(spatialdata.read_zarr(sys.argv[1])['again'].X.sum())",
        tmp_path / "copy.zarr",
    )
