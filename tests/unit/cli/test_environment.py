"""The environment that a command is given, and what it adds."""

from __future__ import annotations

import os

import pytest

from diffreid_lightning.cli.environment import let_threads_sleep

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize("given", [None, *NAMES])
def test_threads_wait_asleep_unless_the_user_says_how_they_wait(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "7")
    let_threads_sleep()
    expected = {"GOMP_SPINCOUNT": "10000"} if given is None else {given: "7"}
    assert {name: os.environ[name] for name in NAMES if name in os.environ} == expected
