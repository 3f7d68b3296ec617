"""The versions that a bug report needs."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from diffreid_lightning.cli import main


def test_the_versions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("diffreid_lightning ")
    assert f"torch {version('torch')}" in lines
    assert f"lightning {version('lightning')}" in lines
