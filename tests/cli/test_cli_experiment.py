"""The file of an experiment: what is read, and what is refused before any work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hisdiff_sd._cli._experiment import Experiment, as_toml, experiment_of, read_experiment
from hisdiff_sd._errors import HisDiffError

WHOLE = """
out = "results"
device = "cpu"
seed = 3
workers = 2
[data]
source = "hest"
slides = ["A", "B", "C"]
test = ["C"]
[convert]
compression = "none"
link = true
[embed]
encoder = "uni"
weights = "/w/uni.bin"
tile_um = 112
padding = "white"
[genes]
n_top = 50
include = ["ERBB2"]
[train]
target = "cp10k"
preset = "small"
epochs = 9
[predict]
n_samples = 8
steps = 5
[report]
genes = ["ERBB2", "EPCAM"]
"""
DATA = '[data]\nsource = "hest"\ntest = ["C"]\n'


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "e.toml").write_text(text)
        return tmp_path / "e.toml"

    return write


def test_a_whole_file_is_read_with_paths_relative_to_it(written, tmp_path):
    found = read_experiment(written(WHOLE))
    assert (found.name, found.out, found.data.source) == ("e", tmp_path / "results", tmp_path / "hest")
    assert (found.device, found.seed, found.workers) == ("cpu", 3, 2)
    assert found.embed.weights == Path("/w/uni.bin")
    assert found.embed.tile_um == 112.0
    assert found.convert.link is True
    assert found.genes.include == ["ERBB2"]
    assert (found.train.target, found.train.epochs, found.predict.n_samples) == ("cp10k", 9, 8)


def test_what_is_not_said_is_the_default_of_the_api(written):
    import inspect

    import hisdiff_sd as hd

    found = read_experiment(written('out = "r"\n' + DATA))
    for section, function in (
        (found.embed, hd.pp.embed),
        (found.train, hd.tl.train),
        (found.predict, hd.tl.predict),
        (found.genes, hd.pp.select_genes),
    ):
        defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        for key, value in vars(section).items():
            if key != "file":
                assert value == (list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]), key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out = 'r'\nsede = 1\n" + DATA, r"no key of an experiment 'sede'; .*Did you mean 'seed'"),
        ("out = 'r'\n" + DATA + "[train]\nepoch = 1", r"no key of \[train\] 'epoch'; .*Did you mean 'epochs'"),
        ("out = 'r'\n" + DATA + "[trian]\nepochs = 1", r"no key of an experiment 'trian'; .*Did you mean 'train'"),
        (DATA, "out is missing"),
        ("out = 'r'", "data is missing"),
        ("out = 'r'\n[data]\nsource = 'h'", r"\[data\] test is missing"),
        ("out = 'r'\n[data]\nsource = 'h'\ntest = []", r"test is empty"),
        ("out = 'r'\n[data]\ntest = ['C']", r"either source, .* or stores"),
        ("out = 'r'\n[data]\ntest = ['C']\nsource = 'h'\nstores = ['s']", r"either source, .* or stores"),
        ("out = 'r'\n[data]\nsource = 'h'\ntest = 'C'", r"\[data\] test = 'C' is no list; write \["),
        ("out = 'r'\nseed = 1.5\n" + DATA, r"seed = 1.5 is of a wrong type; a whole number is needed"),
        ("out = 'r'\nseed = true\n" + DATA, r"seed = True is of a wrong type; a whole number is needed"),
        ("out = 'r'\n" + DATA + "[embed]\nencoder = 3", r"\[embed\] encoder = 3 is of a wrong type; text is needed"),
        ("out = 'r'\n" + DATA + "[convert]\nlink = 'yes'", r"link = 'yes' is of a wrong type; true or false"),
        ("out = 'r'\ntrain = 3\n" + DATA, r"train = 3 is no section; write \[train\]"),
        ("out = 'r'\n" + DATA + "[train]\ntarget = 'log'", "no target 'log'; there are: 'log2', 'cp10k'"),
        ("out = 'r'\n" + DATA + "[predict]\nn_samples = 0", "n_samples = 0 is too few"),
        ("out = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(written, text, said):
    path = written(text)
    with pytest.raises(HisDiffError, match=said) as caught:
        read_experiment(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_lists_those_that_are(written, tmp_path):
    written(WHOLE)
    with pytest.raises(HisDiffError, match=re.escape("no file ") + r".*exp.toml; files \*.toml there: e.toml"):
        read_experiment(tmp_path / "exp.toml")


def test_an_experiment_written_and_read_is_the_same(written):
    found = read_experiment(written(WHOLE))
    assert read_experiment(written(as_toml(found, found.out.parent))) == found


NAME = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8)


@given(
    names=st.lists(NAME, min_size=1, max_size=3),
    epochs=st.none() | st.integers(1, 10**6),
    tile=st.none() | st.floats(1, 1e4),
    link=st.booleans(),
)
def test_any_values_survive_a_round_trip(names, epochs, tile, link, tmp_path_factory):
    values = {"out": "o", "data": {"stores": ["s"], "test": names}, "convert": {"link": link}}
    values |= {
        "train": {} if epochs is None else {"epochs": epochs},
        "embed": {} if tile is None else {"tile_um": tile},
    }
    folder = tmp_path_factory.mktemp("e")
    experiment = experiment_of(values, folder)
    assert isinstance(experiment, Experiment)
    (folder / "e.toml").write_text(as_toml(experiment, folder), encoding="utf-8")
    read = read_experiment(folder / "e.toml")
    assert {**vars(read), "name": ""} == vars(experiment)


DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_example_of_the_docs_is_read_and_every_key_is_explained(written):
    text = DOCS.read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = read_experiment(written(example))
    assert found.data.test == ["SPA148"]
    explained = text.partition("| key | default |")[2].partition("Paths are relative")[0]
    for name, value in vars(found).items():
        for key in vars(value) if hasattr(value, "__dataclass_fields__") else [name]:
            assert f"{key}`" in explained, key
