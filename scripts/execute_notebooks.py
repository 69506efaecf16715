"""Runs notebooks and saves them with their outputs; with --check compares the text of their outputs with the saved one.

scripts/notebooks runs this in the environment that it needs. Exit status 1: a cell failed, or --check found a
difference. Pictures are not compared, only that there are as many.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
CELL_TIMEOUT_S = 300
PALETTE_COLOURS = 96
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(arguments: list[str]) -> int:
    """Execute; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, save nothing")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.notebooks or sorted(FOLDER.glob("*.ipynb")):
        problem = _check(path) if options.check else _save(path)
        print(problem or f"{path.name}: {'up to date' if options.check else 'saved'}")
        failed = failed or bool(problem)
    return int(failed)


def _save(path: Path) -> str:
    """Execute and write; what went wrong, if anything did."""
    try:
        nbformat.write(executed(path), path)
    except CellExecutionError as error:
        return f"{path.name}: {error}"
    return ""


def _check(path: Path) -> str:
    """Execute and compare; what is different, if anything is."""
    try:
        fresh = shown(executed(path))
    except CellExecutionError as error:
        return f"{path.name}: {error}"
    saved = shown(nbformat.read(path, as_version=4))
    return "\n".join(difflib.unified_diff(saved, fresh, f"{path.name} as saved", "as executed", lineterm="", n=1))


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs, free of what changes from run to run. Raises where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = folder  # nobody's startup files
        NotebookClient(
            notebook,
            kernel_name=KERNEL["name"],
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),  # files, not the network
            timeout=CELL_TIMEOUT_S,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = smaller(output.data["image/png"])
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python"))
    return notebook


def smaller(picture: str) -> str:
    """A PNG picture (base64) with a palette of its own, a third of the bytes: notebooks live in the repository."""
    stream = BytesIO()
    with Image.open(BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(PALETTE_COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def shown(notebook: NotebookNode) -> list[str]:
    """Every line of text that a reader sees below the cells; of a picture, that there is one."""
    lines: list[str] = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            lines.append(f"-- cell {number}: {output.output_type}")
            if output.output_type == "stream":
                lines += output.text.splitlines()
                continue
            data = output.get("data", {})
            lines += ["a picture"] if "image/png" in data else str(data.get("text/plain", "")).splitlines()
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
