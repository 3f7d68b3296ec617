"""Docstrings open with what is done, and functions stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import diffreid_lightning

ROOT = Path(diffreid_lightning.__file__).parents[1]
_QUESTION = re.compile(r"(What|Who|Whom|Whose|Where|How|Which|Why|When|Whether|That)\b")
_FOLDERS = ("diffreid_lightning", "tools", "experiments", "benchmarks")


def docstrings() -> Iterator[tuple[str, str]]:
    """Return every docstring with its place."""
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    text = ast.get_docstring(node)
                    if text:
                        name = getattr(node, "name", "module")
                        yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}", text


def test_no_docstring_begins_with_a_question_word() -> None:
    found = list(docstrings())
    assert len(found) > 1000
    wrong = [f"{place}: {text.splitlines()[0]}" for place, text in found if _QUESTION.match(text)]
    assert not wrong, "\n".join(wrong)


def test_no_function_is_long() -> None:
    long = []
    for path in sorted((ROOT / "diffreid_lightning").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{path.name}: {node.name} has {lines} lines"] if lines > 60 else []
    assert not long
