"""Makes the notebooks from their scripts: ``python notebooks/build.py``.

A script's name begins with a number, and its text is in the percent format: ``# %%`` begins a code cell,
``# %% [markdown]`` one whose lines are comments.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

_MARK = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


class Cell(NamedTuple):
    """One cell."""

    kind: str  #: ``code`` or ``markdown``
    source: str


def cells_of_script(text: str) -> list[Cell]:
    """Cut a script into cells.

    Args:
        text: of the script; what stands before the first mark belongs to no cell.
    """
    marks = list(_MARK.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    cells = []
    for mark, end in zip(marks, ends, strict=True):
        source = text[mark.end() : end].strip("\n")
        if mark[1]:
            cells.append(Cell("markdown", re.sub(r"^# ?", "", source, flags=re.MULTILINE)))
        else:
            cells.append(Cell("code", source))
    return cells


def cells_of_notebook(text: str) -> list[Cell]:
    """Read the cells of a notebook, executed or not."""
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]


def notebook(cells: list[Cell]) -> str:
    """Write cells as a notebook of format 4.5, the same text each time."""
    written: list[dict[str, Any]] = []
    for number, cell in enumerate(cells):
        outputs = {"execution_count": None, "outputs": []} if cell.kind == "code" else {}
        lines = cell.source.splitlines(keepends=True)
        written.append({"cell_type": cell.kind, "id": f"cell-{number:02d}", "metadata": {}, "source": lines, **outputs})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Make the notebook of every script in this folder."""
    for script in sorted(Path(__file__).parent.glob("[0-9]*.py")):
        made = script.with_suffix(".ipynb")
        made.write_text(notebook(cells_of_script(script.read_text(encoding="utf-8"))), encoding="utf-8")
        print(made)


if __name__ == "__main__":
    main()
