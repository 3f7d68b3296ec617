"""W&B never asks and never stops a run."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb.sdk.mailbox import HandleAbandonedError

from diffreid_lightning import tracking
from diffreid_lightning.errors import UserError
from tests.fixtures.wandb_records import read_run, runs_under


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no netrc, no mode."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def test_without_a_key_it_is_offline() -> None:
    assert tracking.tracking_mode() == "offline"


def test_a_key_in_the_environment_or_the_netrc_means_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password 0123456789\n")
    assert tracking.tracking_mode() == "offline", "a key for another host is none for this one"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert tracking.tracking_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert tracking.tracking_mode() == "offline"
    (tmp_path / "netrc").write_text("machine localhost:8080 login user password 0123456789\n")  # as wandb writes it
    assert tracking.tracking_mode() == "online"
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking.tracking_mode() == "online"


@pytest.mark.parametrize(("given", "mode"), [("disabled", "disabled"), ("dryrun", "offline"), ("online", "online")])
def test_the_mode_in_the_environment_is_respected(given: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", given)
    assert tracking.tracking_mode() == mode


@pytest.mark.parametrize("given", ["off", "bogus", "Offline"])
def test_a_mode_that_wandb_does_not_have_is_refused_before_anything_runs(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", given)
    with pytest.raises(UserError, match=given) as caught:
        tracking.WandbTracker()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "WANDB_MODE=disabled" in str(caught.value)
    assert tracking.WandbTracker().mode == "disabled", "the remedy"


def test_a_project_in_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.WandbTracker().name == "diffreid"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert tracking.WandbTracker().name == "mine"
    assert tracking.WandbTracker(project="given").name == "given"


def test_a_home_folder_is_expanded(tmp_path: Path) -> None:
    assert tracking.WandbTracker(save_dir="~/runs").save_dir == str(tmp_path / "runs")


def test_another_way_of_logging_artifacts_is_refused() -> None:
    with pytest.raises(UserError, match="none or references or files"):
        tracking.WandbTracker(artifacts="copies")  # type: ignore[arg-type]


def refuse(monkeypatch: pytest.MonkeyPatch, *modes: str) -> None:
    """Let W&B fail to start in the given modes."""
    real = wandb.init

    def broken(**kwargs: Any) -> Any:
        if kwargs["mode"] in modes:
            raise OSError(f"no {kwargs['mode']}")
        return real(**kwargs)

    monkeypatch.setattr(wandb, "init", broken)


def started(tracker: tracking.WandbTracker) -> list[str]:
    """Log one number and return what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker.log_metrics({"x": 1.5}, step=0)
    tracking.finish_tracking()
    return [str(warning.message) for warning in caught if "W&B" in str(warning.message)]


def test_without_a_network_a_run_with_a_key_is_recorded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    refuse(monkeypatch, "online")
    tracker = tracking.WandbTracker(save_dir=str(tmp_path / "run"))
    (said,) = started(tracker)
    assert "no online" in said
    assert "recorded offline" in said
    wandb.teardown()  # waits for the process that writes the file
    (record,) = runs_under(tmp_path / "run")
    assert read_run(record)["history"]["x"] == [1.5]


def test_a_wandb_that_cannot_start_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    refuse(monkeypatch, "online", "offline")
    tracker = tracking.WandbTracker(save_dir=str(tmp_path / "run"))
    online, offline = started(tracker)
    assert "recorded offline" in online
    assert "goes on without it" in offline
    assert tracker.mode == "disabled"


def test_a_folder_that_cannot_be_made_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (said,) = started(tracking.WandbTracker(save_dir=str(tmp_path / "file" / "run")))
    assert "goes on without it" in said


class Broken:
    """A W&B run that fails at whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.config = self

    def log(self, *args: object, **kwargs: object) -> None:
        raise self.error

    update = log


@pytest.mark.parametrize("error", [OSError(28, "No space left"), wandb.Error("gone"), HandleAbandonedError()])
def test_a_wandb_that_fails_later_is_one_warning(error: Exception) -> None:
    tracker = tracking.WandbTracker()
    tracker._experiment = Broken(error)  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker.log_metrics({"x": 1.0}, step=0)
        tracker.log_metrics({"x": 2.0}, step=1)
        tracker.log_hyperparams({"rate": 0.1})
    assert len([warning for warning in caught if "W&B failed while logging" in str(warning.message)]) == 1


def test_a_mistake_in_what_is_logged_is_no_failure_of_wandb() -> None:
    tracker = tracking.WandbTracker()
    tracker._experiment = Broken(TypeError("not a number"))  # type: ignore[assignment]
    with pytest.raises(TypeError, match="not a number"):
        tracker.log_metrics({"x": 1.0})


@pytest.mark.parametrize("error", [OSError(28, "No space left"), wandb.Error("gone")])
def test_a_failing_finish_hides_no_other_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish() -> None:
        raise error

    monkeypatch.setattr(wandb, "run", object())
    monkeypatch.setattr(wandb, "finish", finish)

    def run() -> None:
        try:
            raise KeyError("the run's own")
        finally:
            tracking.finish_tracking()

    with pytest.warns(UserWarning, match="could not close"), pytest.raises(KeyError, match="the run's own"):
        run()


def test_an_offline_run_holds_what_was_logged(tmp_path: Path) -> None:
    tracker = tracking.WandbTracker(project="somewhere", save_dir=str(tmp_path / "run"), id="abc123")
    tracker.log_metrics({"val/mAP": 12.5}, step=3)
    tracking.finish_tracking()
    wandb.teardown()  # waits for the process that writes the file
    (record,) = runs_under(tmp_path / "run")
    run = read_run(record)
    assert (run["id"], run["project"]) == ("abc123", "somewhere")
    assert run["history"]["val/mAP"] == [12.5]
    assert run["history"]["trainer/global_step"] == [3]
    assert run["steps"] == {"*": "trainer/global_step"}, "the x axis of every curve"


def test_all_attempts_at_a_run_are_named_for_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["offline-run-20261125_100000-aa11", "offline-run-20261125_110000-aa11", "offline-run-20261125_100500-bb22"]
    for name in names:
        (tmp_path / "my runs" / name / "files").mkdir(parents=True)
    run = SimpleNamespace(dir=str(tmp_path / "my runs" / names[1] / "files"), offline=True)
    fake = SimpleNamespace(run=run, finish=lambda: None, teardown=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with caplog.at_level("INFO"):
        tracking.finish_tracking()
    sent = shlex.split(caplog.text.partition("wandb sync ")[2])
    assert [Path(path).name for path in sent] == names[:2]
