"""Every notebook runs from top to bottom, and keeps what it printed and drew the last time."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
REAL = os.environ.get("HISDIFF_SD_TEST_DATA")
of_notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def code_of(notebook: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in code_cells(notebook))


def test_there_are_notebooks():
    assert NOTEBOOKS


@of_notebooks
def test_code_compiles_and_there_is_one_title(notebook):
    compile(code_of(notebook), notebook.name, "exec")
    cells = json.loads(notebook.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert len(re.findall(r"^# ", text, flags=re.M)) == 1


@of_notebooks
def test_outputs_are_of_one_run_and_of_no_machine(notebook):
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"  # warnings and progress bars
        shown = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
        text = json.dumps([shown, output.get("text", "")])
        assert not re.search(r"""(^|[\s'"(])(/(tmp|var|home|Users|root|work|mnt)/|[A-Z]:\\)""", text), text
        assert "<Figure size" not in text  # a figure that the notebook did not draw
    assert notebook.stat().st_size < 1_000_000


@of_notebooks
def test_links_lead_somewhere(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (notebook.parent / link).is_file(), link


@pytest.mark.slow
@of_notebooks
@pytest.mark.parametrize(
    "slides", ["synthetic", pytest.param("real", marks=pytest.mark.skipif(REAL is None, reason="no real slides"))]
)
def test_a_notebook_runs_from_top_to_bottom(notebook, slides, tmp_path, monkeypatch):
    if slides == "synthetic":
        monkeypatch.delenv("HISDIFF_SD_TEST_DATA", raising=False)
    elif "HISDIFF_SD_TEST_DATA" not in code_of(notebook):
        pytest.skip("made for synthetic slides")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    exec(compile(code_of(notebook), notebook.name, "exec"), {"__name__": "__main__"})
