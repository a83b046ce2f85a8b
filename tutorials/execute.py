"""Run notebooks from top to bottom and keep what they print and draw.

    pip install nbclient ipykernel
    python tutorials/execute.py                       # all of them
    python tutorials/execute.py first_prediction      # some

Each runs in an empty folder, on synthetic slides. What belongs to this machine or this run is left out: paths, times,
warnings (they are shown here instead) and progress bars.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
DPI = 80


def execute(path: Path) -> None:
    """Run a notebook in a folder of its own and write its outputs into the file."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "matplotlibrc").write_text(f"figure.dpi: {DPI}\n")
        start = time.perf_counter()
        client = NotebookClient(
            notebook, timeout=None, resources={"metadata": {"path": str(folder)}}, record_timing=False
        )
        client.execute()
        seconds = time.perf_counter() - start
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [tidied(o, folder) for o in cell.outputs if is_kept(o)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    path.write_text(nbformat.writes(notebook, indent=1) + "\n")
    print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")


def is_kept(output: Any) -> bool:
    """Whether an output says something of the notebook; warnings are printed here and dropped."""
    if output.output_type == "stream" and output.name == "stderr":
        print(output.text, file=sys.stderr)
        return False
    return True


def tidied(output: Any, folder: Path) -> Any:
    """An output without paths of this machine and with small pictures."""
    if "text" in output:
        output.text = relative(output.text, folder)
    data = output.get("data", {})
    if "image/png" in data:
        return nbformat.v4.new_output(
            output.output_type,
            {"image/png": smaller(data["image/png"])},
            **({"execution_count": output.execution_count} if "execution_count" in output else {}),
        )
    for kind, text in data.items():
        data[kind] = relative(text, folder)
    return output


def relative(text: str, folder: Path) -> str:
    """Paths as they are seen from the folder that the notebook ran in."""
    return text.replace(f"{folder}{os.sep}", "").replace(str(folder), ".")


def smaller(png: str) -> str:
    """A picture with a palette, which takes a third of the bytes; the method is the one that keeps colour bars smooth."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    small = opaque.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette = small.getpalette() or []
    brightest = max(range(0, len(palette), 3), key=lambda i: sum(palette[i : i + 3]))
    palette[brightest : brightest + 3] = [255, 255, 255]  # paper
    small.putpalette(palette)
    written = io.BytesIO()
    small.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


if __name__ == "__main__":
    os.environ.pop("HISDIFF_SD_TEST_DATA", None)  # real slides are not ours to show
    os.environ.pop("MPLBACKEND", None)  # the notebook draws into itself
    for each in sys.argv[1:] or sorted(p.stem for p in HERE.glob("*.ipynb")):
        execute(HERE / f"{each}.ipynb")
