"""The notebooks: run as Jupyter runs them, their text outputs compared with what is stored, or written anew.

``python -m tests.docs.notebooks`` makes the bundled atlas in a temporary folder and rewrites every notebook's outputs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.docs import console

FOLDER = console.ROOT / "notebooks"


def pages() -> list[Path]:
    return sorted(FOLDER.glob("*.ipynb"))


def executed(page: Path) -> nbformat.NotebookNode:
    """A notebook after all its cells ran, in a kernel of its own that finds the atlas by ``ATLAS_HOME``."""
    book = nbformat.read(page, as_version=4)
    NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(console.ROOT)}}
    ).execute()
    return book


def printed(book: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """Source and text output of each cell that computes."""
    for cell in book.cells:
        if cell.cell_type == "code":
            shown = [out for out in cell.outputs if out.get("name") != "stderr"]
            texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in shown]
            yield cell.source, "\n".join(text.rstrip() for text in texts)


def rewrite(page: Path) -> None:
    """Run a notebook and keep its outputs, as text only: what differs from run to run would make noise."""
    book = executed(page)
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "data" in output:
                    output.data = {"text/plain": output.data["text/plain"]}
                    output.metadata = {}
                if "execution_count" in output:
                    output.execution_count = None
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(book, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        console.make_atlas(Path(folder))
        for page in pages():
            rewrite(page)
            print(page.relative_to(console.ROOT), file=sys.stderr)
