"""Every config that ships: the command at its head parses, with something in the place of what it leaves open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from diffreid_lightning.cli.layers import configs_folder

_COMMAND = re.compile(r"python -m diffreid_lightning (fit|predict|test) --config ")
_TRAINER_CONFIGS = sorted(
    path.relative_to(configs_folder()).with_suffix("").as_posix()
    for path in configs_folder().rglob("*.yaml")
    if _COMMAND.search(path.read_text(encoding="utf-8"))
)


def left_open(node: Any, key: str = "") -> Iterator[str]:
    """Keys whose value is ``???``, as the command line names them."""
    if node == "???":
        yield key
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from left_open(value, key if name == "init_args" else f"{key}.{name}".strip("."))


def test_configs_are_found() -> None:
    assert {"experiment/bot_market1501", "tiny_sd/denoiser", "pipeline/pretrain"} <= set(_TRAINER_CONFIGS)


@pytest.mark.parametrize("name", _TRAINER_CONFIGS)
def test_the_command_at_its_head_parses(
    name: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (configs_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    found = _COMMAND.search(text)
    assert found is not None
    given = [f"--{key}=somewhere" for key in left_open(yaml.safe_load(text))]
    assert command(found[1], "--config", name, *given, "--print_config") == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(text)
    for section in ("data", "model"):
        if "class_path" in written.get(section, {}):
            assert printed[section]["class_path"].rpartition(".")[2] == written[section]["class_path"]
