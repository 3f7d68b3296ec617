"""Every command in the README is one that the parser takes, and every file it names is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
COMMAND = "python -m "


def shown_commands() -> list[str]:
    """Return each command of the README once, without its comment."""
    text = README.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    inline = [
        " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    lines = [" ".join(shlex.split(line, comments=True)) for line in blocks.splitlines() if line.startswith(COMMAND)]
    return sorted({line.partition(" > ")[0] for line in [*lines, *inline] if line.startswith(COMMAND)})


def module_of(line: str) -> str:
    return line.split()[2]


@pytest.mark.parametrize("line", [c for c in shown_commands() if module_of(c) != "diffreid_lightning"])
def test_modules_that_are_run_exist(line: str) -> None:
    assert importlib.util.find_spec(module_of(line)) is not None


@pytest.mark.parametrize("line", [c for c in shown_commands() if module_of(c) == "diffreid_lightning"])
def test_commands_are_taken(
    line: str, command: Callable[..., int], market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *words = line.split()[3:]
    words = [str(market) if word == "/data/market1501" else word for word in words]
    if verb == "pipeline":
        words = [*words, *([] if "--dry-run" in words else ["--dry-run"])]
    elif verb in ("fit", "validate", "test", "predict", "select"):
        if "--ckpt_path" in words:  # whose run is not there
            place = words.index("--ckpt_path")
            words[place : place + 2] = []
        words = [*words, *([] if "--print_config" in words else ["--print_config"])]
    elif "PATH" in words or verb == "convert":
        words = ["--help"]
    assert command(verb, *words) == 0, capsys.readouterr().err


def test_files_it_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (README.parent / link).exists()] == []
