"""The notebooks agree with their scripts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_the_cells_of_its_script(script: Path, build: ModuleType) -> None:
    written = build.cells_of_script(script.read_text(encoding="utf-8"))
    made = build.cells_of_notebook(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert made == written, "run: python notebooks/build.py"
    assert {cell.kind for cell in written} == {"code", "markdown"}
    for cell in written:
        if cell.kind == "code":
            compile(cell.source, script.name, "exec")


def test_cells_are_read_back_as_they_are_written(build: ModuleType) -> None:
    title = "# %% [markdown]\n# # Title\n#\n# words\n"
    text = f'"""Not a cell."""\n{title}\n# %%\nx = 1\n\n\nprint("ä")\n\n# %%\n# said\ny = 2\n'
    cells = build.cells_of_script(text)
    assert cells == [("markdown", "# Title\n\nwords"), ("code", 'x = 1\n\n\nprint("ä")'), ("code", "# said\ny = 2")]
    made = build.notebook(cells)
    assert build.cells_of_notebook(made) == cells
    assert json.loads(made)["nbformat"] == 4
    assert made == build.notebook(cells)
