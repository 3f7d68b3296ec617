"""Which code a stage's key covers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diffreid_lightning.pipeline import code_closure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's code, which the hash reads instead of the package."""
    copy = tmp_path / "diffreid_lightning"
    shutil.copytree(code_closure._ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", "assets", "tiny_sd"))
    monkeypatch.setattr(code_closure, "_ROOT", copy)
    return copy


@pytest.fixture
def changed(package: Path) -> Callable[[str, str, str], set[str]]:
    """Return whose hashes change with a change of a file."""
    parts = ("SupervisedReID", "GenerationModule", "Market1501")

    def hashes() -> dict[str, str]:
        return {part: code_closure.code_hash([part, "nothing"], []) for part in parts}

    before = hashes()

    def change(name: str, old: str, new: str) -> set[str]:
        file = package / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        after = hashes()
        file.write_text(text, encoding="utf-8")
        return {part for part in parts if after[part] != before[part]}

    return change


def test_code_counts_for_what_imports_it(changed: Callable[[str, str, str], set[str]]) -> None:
    assert changed("reid/supervised.py", "import Tensor\n", "import Tensor\n\nMORE = 1\n") == {"SupervisedReID"}
    assert changed("diffusion/denoising_loop.py", "import torch\n", "import torch\nMORE = 1\n") == {"GenerationModule"}
    assert changed("errors.py", "class UserError", "MORE = 1\n\n\nclass UserError") == {
        "SupervisedReID",
        "GenerationModule",
        "Market1501",
    }
    assert not changed("cli/main.py", "import sys\n", "import sys\nMORE = 1\n")
    assert not changed("filtering/scores.py", "import torch\n", "import torch\nMORE = 1\n")


def test_the_users_own_code_counts_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_parts").mkdir()
    for name, text in {
        "mine_model.py": "import torch\nfrom mine_parts.neck import Neck\n",
        "mine_parts/__init__.py": "",
        "mine_parts/neck.py": "class Neck: ...\n",
        "mine_parts/other.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    names = [
        "mine_model.Model",
        "torch.optim.Adam",
        "diffreid_lightning.reid.base.ReIDModule",
        "0.5",
        "a b.c",
        "os.path",
    ]
    found = code_closure.own_code(names)
    assert set(found) == {"mine_model", "mine_parts", "mine_parts.neck"}
    (tmp_path / "mine_parts/other.py").write_text("more = 1\n")
    assert code_closure.own_code(names) == found
    (tmp_path / "mine_parts/neck.py").write_text("class Neck:\n    width = 2\n")
    assert code_closure.own_code(names) != found


def test_relative_imports_and_folders_without_init_count_and_what_does_not_parse_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "mine_bare/nets/model.py": "from .neck import Neck\nfrom ..heads import Head\nfrom . import other\n",
        "mine_bare/nets/neck.py": "class Neck: ...\n",
        "mine_bare/nets/other.py": "",
        "mine_bare/heads.py": "class Head: ...\n",
        "mine_legacy.py": "print 'two'\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = code_closure.own_code(["mine_bare.nets.model.Model", "mine_legacy.Thing"])
    assert set(found) == {"mine_bare.nets.model", "mine_bare.nets.neck", "mine_bare.nets.other", "mine_bare.heads"}


def test_docstrings_and_comments_do_not_count(changed: Callable[[str, str, str], set[str]]) -> None:
    assert not changed("errors.py", '"""', '"""Further words. ')
    assert not changed("reid/supervised.py", "import Tensor\n", "import Tensor  # of course\n")


def test_a_class_is_found_by_its_path_and_a_format_by_its_name() -> None:
    of_nothing = code_closure.code_hash([], [])
    named = code_closure.code_hash(["diffreid_lightning.reid.supervised.SupervisedReID"], [])
    assert named == code_closure.code_hash(["SupervisedReID"], []) != of_nothing
    assert code_closure.code_hash(["PersonTable"], []) != of_nothing
