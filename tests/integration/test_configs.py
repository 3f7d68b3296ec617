"""Every config that ships: the command at its head parses, with something in the place of what is left open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as sweeps

from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.sweeps.sweep_file import read_sweep
from diffreid_lightning.sweeps.trial_command import trial_words
from tests.fixtures.command_line import TINY
from tests.fixtures.wandb_records import read_run, runs_under

_COMMAND = re.compile(r"python -m diffreid_lightning (fit|predict|test)((?: --config [\w/.]+)+)")
_ROOT = configs_folder().parent
_FILES = {
    path.relative_to(configs_folder()).with_suffix("").as_posix(): path for path in configs_folder().rglob("*.yaml")
}
_FILES |= {path.relative_to(_ROOT).as_posix(): path for path in _ROOT.glob("tools/*/configs/*.yaml")}
_TRAINER_CONFIGS = sorted(name for name, path in _FILES.items() if _COMMAND.search(path.read_text(encoding="utf-8")))
_SWEEPS = sorted((configs_folder() / "sweeps").glob("*.yaml"))


def left_open(node: Any, key: str = "") -> Iterator[str]:
    """Keys whose value is ``???``, as the command line names them."""
    if node == "???":
        yield key
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from left_open(value, key if name == "init_args" else f"{key}.{name}".strip("."))


def test_configs_are_found() -> None:
    assert {"recipes/bot_market1501", "stages/pretrain", "tools/tiny_sd/configs/decoder.yaml"} <= set(_TRAINER_CONFIGS)


@pytest.mark.parametrize("name", _TRAINER_CONFIGS)
def test_the_command_at_its_head_parses(
    name: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tools").symlink_to(_ROOT / "tools")
    text = _FILES[name].read_text(encoding="utf-8")
    commands = {found[2].split()[-1]: found for found in _COMMAND.finditer(text)}
    assert name in commands, "its head shows how it is run"
    verb, layers = commands[name][1], commands[name][2].split()
    texts = [_FILES[layer].read_text(encoding="utf-8") for layer in layers[1::2]]
    given = [f"--{key}=somewhere" for each in texts for key in left_open(yaml.safe_load(each))]
    assert command(verb, *layers, *given, "--print_config") == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(text)
    for section in ("data", "model"):
        if "class_path" in written.get(section, {}):
            assert (
                printed[section]["class_path"].rpartition(".")[2] == written[section]["class_path"].rpartition(".")[2]
            )


def trial(sweep: Mapping[str, Any], choose: Callable[[list[Any]], Any]) -> list[str]:
    """Build the command line of one trial from a sweep's file, by W&B's own functions, as its agent does.

    Args:
        sweep: the file.
        choose: takes one of a parameter's values, or of the ends of its range.
    """
    values = {
        name: {"value": choose(given["values"] if "values" in given else [given["min"], given["max"]])}
        for name, given in sweep["parameters"].items()
    }
    filled: dict[str, Any] = {
        **sweeps.create_sweep_command_args({"args": values}), "interpreter": ["python"], "env": ["/usr/bin/env"],
    }  # fmt: skip
    words: list[str] = []
    for word in sweeps.create_sweep_command(list(sweep["command"])):
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        words += filled[macro[1]] if macro else [word]
    return words


@pytest.mark.parametrize("file", _SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("choose", [itemgetter(0), itemgetter(-1)], ids=["first", "last"])
def test_a_sweeps_command_line_parses(
    file: Path, choose: Callable[[list[Any]], Any], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = yaml.safe_load(file.read_text(encoding="utf-8"))
    words = trial(sweep, choose)
    assert words[:5] == ["/usr/bin/env", "python", "-m", "diffreid_lightning", "fit"]
    assert command(*words[4:], "--print_config") == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    for name in sweep["parameters"]:
        given = next(word.partition("=")[2] for word in words if word.startswith(f"--{name}="))
        node = printed
        for key in name.split("."):
            node = node["init_args"][key] if "init_args" in node and key != "init_args" else node[key]
        expected = yaml.safe_load(given)
        if isinstance(expected, list):  # of classes
            node, expected = ([each["class_path"].rpartition(".")[2] for each in found] for found in (node, expected))
        assert node == expected


def test_values_of_every_kind_reach_the_settings(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The file shown in the documentation: nested parameters, classes, null."""
    page = (_ROOT / "docs/guide/sweeps.md").read_text(encoding="utf-8")
    (tmp_path / "shown.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    sweep = read_sweep("shown.yaml")
    chosen = {
        "data.sampler.images_per_identity": "8",
        "model.losses": json.dumps([{"class_path": "LabelSmoothedCrossEntropy"}, {"class_path": "CircleLoss"}]),
        "model.losses.init_args.margin": 0.3,
        "model.optimizer.init_args.lr": 1e-05,
        "model.init_from": None,
    }
    words = trial_words(sweep, {each.keys: each.value_of(chosen[each.name]) for each in sweep.parameters}, tmp_path)
    assert command(*words, "--print_config") == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["init_args"]["sampler"]["init_args"]["images_per_identity"] == 8
    model = printed["model"]["init_args"]
    assert (model["optimizer"]["init_args"]["lr"], model["init_from"]) == (1e-05, None)
    assert [each["class_path"].rpartition(".")[2] for each in model["losses"]] == [
        "LabelSmoothedCrossEntropy",
        "CircleLoss",
    ]
    assert model["losses"][1]["init_args"]["margin"] == 0.3


def test_a_trial_logs_what_its_sweep_looks_at(tracked: Callable[..., int], market: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load((configs_folder() / "sweeps/supervised.yaml").read_text(encoding="utf-8"))
    assert tracked(*trial(sweep, min)[4:], f"--data.train={market}", *TINY) == 0
    (record,) = runs_under(tmp_path / "runs/reid/fit-001")
    assert sweep["metric"]["name"] in read_run(record)["history"]


def test_both_captioners_are_given_the_chains_data(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a chain with stages/caption_blip2 would caption everybody, whatever its variables say."""
    monkeypatch.setenv("DIFFREID_DATA", "/data/people")
    monkeypatch.setenv("DIFFREID_IDENTITIES", "7")
    for name in ("caption", "caption_blip2"):
        assert command("predict", "--config", f"stages/{name}", "--print_config") == 0
        source = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["source"]
        assert source["class_path"].endswith("Subset")
        assert source["init_args"]["dataset"] == "/data/people"
        assert source["init_args"]["identities"] == 7


def test_reranking_keeps_the_other_default_callbacks() -> None:
    callbacks = [
        yaml.safe_load(_FILES[name].read_text(encoding="utf-8"))["trainer"]["callbacks"]
        for name in ("default", "recipes/rerank")
    ]
    assert callbacks[1] == [{**callbacks[0][0], "init_args": {"rerank": True}}, *callbacks[0][1:]]
