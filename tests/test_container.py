"""The pinned versions of the container are of this package, and all that it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["openslide"]]


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = (ROOT / "container" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("text", NEEDED)
def test_every_requirement_has_a_pin_that_it_allows(pinned, text):
    requirement = Requirement(text)
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_nothing_of_a_machine_is_pinned(pinned):
    assert not [name for name, version in pinned.items() if not re.fullmatch(r"\d[\w.!]*", version)]


def test_what_the_recipe_copies_is_there():
    recipe = (ROOT / "container" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
