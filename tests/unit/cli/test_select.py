"""The options of ``select``: what passes, and how mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]
RULE = """
from diffreid_lightning.filtering.rules import SelectionRule

class Mine(SelectionRule):
    def __init__(self, share: float) -> None: ...
    def apply(self, selection): ...
"""


@pytest.mark.parametrize("words", [["select", "--scored"], ["fit", "--trainer.logger=false", "--data.train"]])
def test_a_setting_may_hold_any_character(
    command: Command, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert command(*words, "nowhere-\U0001f600") == 2
    assert "nowhere-\U0001f600" in capfd.readouterr().err


def test_settings_are_named_as_the_command_takes_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert command("select", "--rules+=own_rule.Mine") == 2
    assert "add --rules.share VALUE" in capfd.readouterr().err
    assert command("select", "--nowhere=1") == 2
    assert "'nowhere' is not a setting" in capfd.readouterr().err
