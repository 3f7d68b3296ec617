"""W&B never asks and never stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning import tracking
from tests.wandb_records import read_run, runs_under


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
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking.tracking_mode() == "online"


@pytest.mark.parametrize(("given", "mode"), [("disabled", "disabled"), ("dryrun", "offline"), ("online", "online")])
def test_the_mode_in_the_environment_is_respected(given: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", given)
    assert tracking.tracking_mode() == mode


def test_a_wandb_that_cannot_start_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    real = wandb.init

    def broken(**kwargs: object) -> object:
        if kwargs.get("mode") != "disabled":
            raise OSError("no room")
        return real(**kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(wandb, "init", broken)
    tracker = tracking.WandbTracker()
    with pytest.warns(UserWarning, match="goes on without it"):
        tracker.log_metrics({"x": 1.0}, step=0)
    tracking.finish_tracking()


def test_an_offline_run_holds_what_was_logged(tmp_path: Path) -> None:
    tracker = tracking.WandbTracker(project="somewhere", save_dir=str(tmp_path / "run"), id="abc123")
    tracker.log_metrics({"val/mAP": 12.5}, step=3)
    tracking.finish_tracking()
    (record,) = runs_under(tmp_path / "run")
    run = read_run(record)
    assert (run["id"], run["project"]) == ("abc123", "somewhere")
    assert run["history"]["val/mAP"] == [12.5]
    assert run["history"]["trainer/global_step"] == [3]
