"""Signals that end a command, and what they leave as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial

import pytest

from diffreid_lightning.cli import lightning_cli, signals

Command = Callable[..., int]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_whatever_error_it_leads_to(
    name: str,
    code: int,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)))  # nohup
    before = [signal.getsignal(getattr(signal, each)) for each in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")]

    def stop(*_: object) -> None:
        try:
            os.kill(os.getpid(), getattr(signal, name))
        finally:  # as torch raises where a loader process has died of the same signal
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    monkeypatch.setattr(lightning_cli, "run_command", stop)
    assert command("fit") == code
    error = capfd.readouterr().err
    assert error.startswith("error: Interrupted.") and "--ckpt_path last" in error
    after = [signal.getsignal(getattr(signal, each)) for each in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")]
    assert after == before


def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with signals.noticed() as arrived:
            os.kill(os.getpid(), signal.SIGHUP)
        assert arrived.exit_code is None
    finally:
        signal.signal(signal.SIGHUP, before)
