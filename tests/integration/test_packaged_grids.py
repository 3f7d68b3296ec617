"""Every command of the grids that ship, and of those of the experiments, parses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.job_runner import command_of
from diffreid_lightning.pipeline.graph import read_chain

Command = Callable[..., int]


_LAID_OVER = (
    "benchmark/imagenet_rows",
    *(f"experiments/evidence/{name}.yaml" for name in ("rows", "scaling", "world_rows")),
    *(
        f"experiments/filtering/{name}.yaml"
        for name in ("selections", "label_noise", "joint_training", "bold_generator")
    ),
)
EVIDENCE = Path(__file__).parents[2] / "experiments" / "evidence"

GRIDS = [("benchmark/quick",), ("benchmark/miniperson",), ("benchmark/paper",)]
GRIDS += [("benchmark/miniperson", more) for more in _LAID_OVER]


@pytest.mark.parametrize("names", GRIDS, ids=lambda names: names[-1])
def test_every_command_of_a_grid_parses(
    names: tuple[str, ...],
    command: Command,
    parses_only: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands that differ in places, seeds and initial weights alone are parsed once."""
    monkeypatch.chdir(Path(__file__).parents[2])  # grids of experiments name configs by their paths in a clone
    grid = read_grid(names, str(tmp_path / "root"))
    known = {label for name in names[:-1] for label in read_grid([name]).initializations}
    rows = {label: row for label, row in grid.initializations.items() if label not in known}
    grid = replace(grid, seeds=grid.seeds[:1], initializations=rows)
    place = Workplace(grid.root, dict.fromkeys(grid.datasets, "miniperson"))
    jobs = [job for job in expand(grid).values() if job.words[0] != "select"]  # which is run when it is parsed
    distinct = {tuple(essence(command_of(job, place, resume=False), grid.root)) for job in jobs}
    assert 3 < len(distinct) < 40
    for words in sorted(distinct):
        assert command(*words) == 0, f"{words}\n{capsys.readouterr().err}"


def essence(words: list[str], root: Path) -> list[str]:
    """Leave out of a command what only says where things lie, and a checkpoint that is not there."""
    if "--ckpt_path" in words:
        del words[words.index("--ckpt_path") : words.index("--ckpt_path") + 2]
    left_out = ("--trainer.default_root_dir=", "--seed_everything=", "--model.init_from=")
    kept = [word for word in words if not word.startswith(left_out)]
    return [re.sub(rf"{re.escape(str(root))}/(made|cells)[^\s\"']*", "somewhere", word) for word in kept]


def test_momentum_contrast_leaves_a_backbone_for_its_row(command: Command, market: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    folder = tmp_path / "made"
    words = [
        "--config",
        "stages/pretrain",
        "--config",
        str(EVIDENCE / "self_supervised.yaml"),
        f"--data.train={market}",
    ]
    few = [
        "--data.num_workers=0",
        "--trainer.limit_train_batches=1",
        "--trainer.max_epochs=1",
        "--trainer.logger=false",
    ]
    sizes = ["--data.image_size=[64,32]", "--data.sampler.batch_size=4", "--model.memory=8"]
    assert command("fit", *words, *few, *sizes, f"--trainer.default_root_dir={folder}") == 0
    assert (folder / "fit-001" / "backbone" / "config.json").is_file()


CHAINS = [
    ("chains/tour", "chains/quick"),
    ("chains/tour", "chains/market1501", "chains/sd15_512"),
    ("chains/tour", "experiments/evidence/without_lpe.yaml"),
    ("chains/tour", "experiments/generator/color_captions.yaml"),
    ("experiments/evidence/variant.yaml",),
]


@pytest.mark.parametrize("names", CHAINS, ids=lambda names: names[-1])
def test_every_stage_of_a_chain_parses(
    names: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid's command names the chain alone: what its stages say shows when they are run."""
    monkeypatch.chdir(Path(__file__).parents[2])
    chain = read_chain(names, {}, {})
    for name, value in chain.environment.items():
        monkeypatch.setenv(name, value)
    for stage in chain.stages:
        if stage.words[0] in ("fit", "predict"):
            assert command(*stage.words, "--print_config") == 0, f"{stage.words}\n{capsys.readouterr().err}"
