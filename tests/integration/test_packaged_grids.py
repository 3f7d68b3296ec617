"""Every command of the grids that ship parses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.job_runner import command_of

Command = Callable[..., int]


@pytest.mark.parametrize("name", ["quick", "miniperson", "paper"])
def test_every_command_of_a_packaged_grid_parses(
    name: str, command: Command, parses_only: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that differ in places, seeds and initial weights alone are parsed once."""
    grid = read_grid([f"benchmark/{name}"], str(tmp_path / "root"))
    place = Workplace(grid.root, dict.fromkeys(grid.datasets, "miniperson"))
    distinct = {tuple(essence(command_of(job, place, resume=False), grid.root)) for job in expand(grid).values()}
    assert 5 < len(distinct) < 40
    for words in sorted(distinct):
        assert command(*words) == 0, f"{words}\n{capsys.readouterr().err}"


def essence(words: list[str], root: Path) -> list[str]:
    """Leave out of a command what only says where things lie, and a checkpoint that is not there."""
    if "--ckpt_path" in words:
        del words[words.index("--ckpt_path") : words.index("--ckpt_path") + 2]
    left_out = ("--trainer.default_root_dir=", "--seed_everything=", "--model.init_from=")
    kept = [word for word in words if not word.startswith(left_out)]
    return [re.sub(rf"{re.escape(str(root))}/(made|cells)[^\s\"']*", "somewhere", word) for word in kept]
