"""Which folder a run lives in, and what ``last`` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning.cli import run_folder
from diffreid_lightning.errors import UserError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (run_folder.ENVIRONMENT, "RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def finished(root: Path, subcommand: str = "fit", checkpoint: str | None = "last") -> run_folder.RunFolder:
    run = run_folder.open_run(root, subcommand)
    (run.path / "config.yaml").touch()
    run_folder.close_run()
    if checkpoint:
        (run.path / "checkpoints").mkdir()
        (run.path / f"checkpoints/{checkpoint}.ckpt").touch()
    return run


def test_every_run_gets_a_folder_and_an_id_of_its_own(tmp_path: Path) -> None:
    runs = [finished(tmp_path, name, None) for name in ("fit", "test", "fit")]
    assert [run.path.name for run in runs] == ["fit-001", "test-002", "fit-003"]
    assert len({run.run_id for run in runs}) == 3


def test_last_is_the_newest_run_that_has_one(tmp_path: Path) -> None:
    finished(tmp_path)
    second = finished(tmp_path)
    finished(tmp_path, checkpoint=None)
    assert run_folder.resolve_checkpoint("last", tmp_path) == second.path / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match="best checkpoint"):
        run_folder.resolve_checkpoint("best", tmp_path)


def test_a_fit_stopped_before_its_first_checkpoint_is_the_one_to_start_again(tmp_path: Path) -> None:
    finished(tmp_path)
    assert run_folder.unstarted_run(tmp_path) is None
    run = run_folder.open_run(tmp_path, "fit")
    (run.path / "config.yaml").touch()
    run_folder.close_run()
    assert run_folder.unstarted_run(tmp_path) == run.path


def test_newest_goes_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (9, 1000, 99):
        (tmp_path / f"fit-{number}/checkpoints").mkdir(parents=True)
        (tmp_path / f"fit-{number}/checkpoints/last.ckpt").touch()
    found = run_folder.resolve_checkpoint("last", tmp_path)
    assert found is not None
    assert found.parents[1].name == "fit-1000"


def test_a_continued_run_keeps_folder_and_id_and_counts_its_attempts(tmp_path: Path) -> None:
    first = finished(tmp_path)
    continued = run_folder.run_of_checkpoint(first.path / "checkpoints/last.ckpt")
    second = run_folder.open_run(tmp_path, "fit", continued)
    run_folder.close_run()
    assert (second.path.resolve(), second.run_id, second.attempt) == (first.path.resolve(), first.run_id, 2)


def test_processes_of_one_launch_meet_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_folder.open_run(tmp_path, "fit")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_folder.open_run(tmp_path, "fit").path == first.path
    run_folder.close_run()


def test_a_rank_of_an_outside_launcher_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_folder.open_run(tmp_path, "fit").path == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        run_folder.open_run(tmp_path / "file/runs", "fit")


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    run_folder.open_run(tmp_path, "fit")
    run_folder.close_run()
    assert list(tmp_path.iterdir()) == []
