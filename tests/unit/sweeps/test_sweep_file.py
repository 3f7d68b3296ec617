"""Sweep files: what is read and what is refused, and the commands of their trials."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as agent

from diffreid_lightning.errors import UserError
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.sweeps.sweep_file import Stopping, Sweep, read_sweep
from diffreid_lightning.sweeps.trial_command import trial_words, write_arguments

START = ["${env}", "${interpreter}", "-m", "diffreid_lightning", "fit"]
SWEEP: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "val/mAP", "goal": "maximize"},
    "command": [*START, "${args}"],
    "parameters": {"a": {"value": 1}},
}


def read(folder: Path, **changes: Any) -> Sweep:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, **changes}), encoding="utf-8")
    return read_sweep(str(file))


@pytest.mark.parametrize("file", sorted((configs_folder() / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_packaged_sweeps_are_read(file: Path) -> None:
    sweep = read_sweep(f"sweeps/{file.stem}")
    assert sweep.name == file.stem
    assert {each.name for each in sweep.parameters} == set(yaml.safe_load(file.read_text())["parameters"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "custom"}, "grid or random or bayes"),
        ({"method": None}, "no method"),
        ({"metric": None}, "metric: {name: val/mAP"),
        ({"metric": {"name": "val/mAP", "goal": "up"}}, "minimize or maximize"),
        ({"metric": {"name": "val/mAP", "gaol": "maximize"}}, "'goal'"),
        ({"metric": {"name": "mAP"}}, "val/mAP"),
        ({"parameters": {}}, "no parameters"),
        ({"parameter": {}}, "'parameters'"),
        ({"parameters": {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}}}, "a.b twice"),
        ({"command": "fit"}, "a list of words"),
        ({"run_cap": 0}, "at least 1"),
        ({"early_terminate": {"type": "median"}}, "type: hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "no band"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 3}}, "no band"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2.5}}, "2, 3, 4"),
        ({"early_terminate": {"type": "hyperband", "min_iter": "x"}}, "the place of min_iter"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, **changes)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min_iter": 3}, Stopping(3, 3, True)),
        ({"min_iter": 2, "eta": 4, "strict": False}, Stopping(2, 4, False)),
        ({"max_iter": 27, "s": 2}, Stopping(3, 3, True)),  # bands 3 and 9
        ({"max_iter": 27, "s": 9, "eta": 2}, Stopping(1, 2, True)),  # 13, 6, 3, 1
    ],
)
def test_bands_of_early_stopping(given: dict[str, Any], expected: Stopping, tmp_path: Path) -> None:
    assert read(tmp_path, early_terminate={"type": "hyperband", **given}).stopping == expected


def test_words_are_those_of_wandbs_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARE", "0.25")
    values = {("lr",): 1e-05, ("flip",): True, ("crop",): False, ("name",): "a b", ("epochs",): 3}
    flat = {keys[0]: value for keys, value in values.items()}
    macros = ["args", "args_no_equals", "program"]
    command = [*START, "--share=${envvar:SHARE}", *(f"${{{name}}}" for name in macros)]
    expected: list[str] = []
    filled = {**agent.create_sweep_command_args({"args": {name: {"value": flat[name]} for name in flat}})}
    for word in agent.create_sweep_command(list(command))[len(START) :]:
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        expected += {**filled, "program": ["train.py"]}[macro[1]] if macro else [word]
    found = trial_words(read(tmp_path, command=command, program="train.py"), values, tmp_path)
    assert found == ["fit", *expected]


def test_structures_are_written_as_json(tmp_path: Path) -> None:
    losses = [{"class_path": "BatchHardTriplet", "init_args": {"margin": None, "hard": True}}]
    values = {("losses",): losses, ("none",): None, ("model", "optimizer", "lr"): 1.5, ("model", "pooling"): "gem"}
    sweep = read(tmp_path, command=[*START, "${args}", "${args_json_file}"])
    write_arguments(values, tmp_path)
    *words, file = trial_words(sweep, values, tmp_path)
    named = {name: yaml.safe_load(text) for name, _, text in (word[2:].partition("=") for word in words[1:])}
    expected = {"losses": losses, "none": None, "model": {"optimizer": {"lr": 1.5}, "pooling": "gem"}}
    assert named == expected
    assert json.loads(Path(file).read_text()) == expected


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["${interpreter}", "train.py", "${args}"], "not a fit of this package"),
        ([*START[:-1], "benchmark", "${args}"], "not a fit of this package"),
        ([*START, "${arguments}"], "macro that is unknown"),
        ([*START, "${args_no_hyphens}"], "makes no words of a fit"),  # W&B's, but no words that fit takes
        ([*START, "--ckpt_path=last"], "--ckpt_path=last"),
    ],
)
def test_commands_that_cannot_be_a_trial_are_refused(command: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        trial_words(read(tmp_path, command=command), {}, tmp_path)
    assert words in str(refused.value)
