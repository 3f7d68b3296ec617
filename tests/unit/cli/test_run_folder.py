"""Which folder a run lives in, and what ``last`` means."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diffreid_lightning.cli import run_folder, start_checkpoint
from diffreid_lightning.errors import UserError
from diffreid_lightning.storage import locks


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = ("RANK", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "LOCAL_RANK")
    for name in (run_folder.ENVIRONMENT, *launchers):
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
    assert start_checkpoint.resolve_checkpoint("last", tmp_path) == second.path / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match="best checkpoint"):
        start_checkpoint.resolve_checkpoint("best", tmp_path)


def test_last_where_no_run_has_one_starts_again_in_the_newest_stopped_run(tmp_path: Path) -> None:
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (None, None)
    stopped = [finished(tmp_path, checkpoint=None).path for _ in range(2)]
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (None, stopped[1])
    (stopped[1] / "summary.json").touch()
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (None, stopped[0]), "one that is complete stays"
    (stopped[1] / "summary.json").unlink()
    (stopped[0] / "checkpoints").mkdir()
    with zipfile.ZipFile(stopped[0] / "checkpoints/last.ckpt", "w") as archive:
        archive.writestr("data.pkl", b"")
    last = stopped[0] / "checkpoints/last.ckpt"
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (last, stopped[0])
    for name in (stopped[0], stopped[0] / "checkpoints"):
        assert start_checkpoint.resolve_checkpoint(str(name), tmp_path) == last
    with pytest.raises(UserError, match=r"fit-002"):
        start_checkpoint.resolve_checkpoint(str(stopped[1]), tmp_path)


def test_newest_goes_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (9, 1000, 99):
        (tmp_path / f"fit-{number}/checkpoints").mkdir(parents=True)
        (tmp_path / f"fit-{number}/checkpoints/last.ckpt").touch()
    found = start_checkpoint.resolve_checkpoint("last", tmp_path)
    assert found is not None
    assert found.parents[1].name == "fit-1000"


def test_a_continued_run_keeps_folder_and_id_and_counts_its_attempts(tmp_path: Path) -> None:
    first = finished(tmp_path)
    continued = start_checkpoint.run_of_checkpoint(first.path / "checkpoints/last.ckpt")
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


def test_spaces_around_a_launchers_number_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (run_folder.launched_rank(), run_folder.launched_world()) == (0, 1)
    monkeypatch.setenv("RANK", " 1")
    monkeypatch.setenv("WORLD_SIZE", " 2")
    monkeypatch.setenv("SLURM_NTASKS", "1 ")
    assert (run_folder.launched_rank(), run_folder.launched_world()) == (1, 2)


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        run_folder.open_run(tmp_path / "file/runs", "fit")


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    run_folder.open_run(tmp_path, "fit")
    run_folder.close_run()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_to_tidy_up_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder.open_run(tmp_path, "fit")

    def refuse(_: Path) -> None:
        assert locks.read_holder(run.path / run_folder.LOCK_FILE) is None
        assert not run_folder._held, "a file that is open would stay on NFS"
        raise OSError("stale")

    monkeypatch.setattr(run_folder.shutil, "rmtree", refuse)
    run_folder.close_run()
    assert [path.name for path in run.path.iterdir()] == ["run.json"]


# Two at once.


def at_work(run: Path, note: str = "another launch") -> locks.FileLock:
    """Hold a run's lock as another process does."""
    lock = locks.take(run / run_folder.LOCK_FILE, note=note)
    assert lock is not None
    return lock


def with_checkpoint(root: Path) -> run_folder.RunFolder:
    run = finished(root)
    with zipfile.ZipFile(run.path / "checkpoints/last.ckpt", "w") as archive:
        archive.writestr("data.pkl", b"")
    return run


def test_a_run_that_somebody_is_at_is_not_gone_on_with(tmp_path: Path) -> None:
    first, second = with_checkpoint(tmp_path), with_checkpoint(tmp_path)
    named = str(second.path / "checkpoints/last.ckpt")
    lock = at_work(second.path)
    checkpoint, continued = start_checkpoint.where_to_start("last", tmp_path, "")
    assert continued == first.path
    assert checkpoint == first.path / "checkpoints/last.ckpt"
    assert start_checkpoint.resolve_checkpoint("last", tmp_path) == Path(named), "it may be evaluated meanwhile"
    _, continued = start_checkpoint.where_to_start(named, tmp_path, "")
    with pytest.raises(UserError, match=r"(?s)at work in .*fit-002.*copy the checkpoint"):
        run_folder.open_run(tmp_path, "fit", continued)
    run_folder.close_run()
    assert (second.path / "run.json").is_file()
    lock.release()
    assert start_checkpoint.where_to_start("last", tmp_path, "")[1] == second.path
    assert run_folder.open_run(tmp_path, "fit", continued).attempt == 2
    run_folder.close_run()


def test_last_begins_a_run_of_its_own_beside_one_that_has_no_checkpoint_yet(tmp_path: Path) -> None:
    """Two jobs of an array, the second started while the first trains its first epoch."""
    run = finished(tmp_path, checkpoint=None)
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (None, run.path)
    lock = at_work(run.path)
    assert start_checkpoint.where_to_start("last", tmp_path, "") == (None, None)
    said = start_checkpoint.describe_start(None, None, tmp_path)
    assert "fit-001, which another process is at work in" in said
    with pytest.raises(UserError, match=r"fit-001 \(another process is at work in it\)"):
        start_checkpoint.where_to_start("best", tmp_path, "")
    lock.release()


def test_an_open_run_is_held_until_it_is_closed(tmp_path: Path) -> None:
    for continued in (None, tmp_path / "fit-001"):
        run = run_folder.open_run(tmp_path, "fit", continued)
        (run.path / "config.yaml").touch()
        assert locks.read_holder(run.path / run_folder.LOCK_FILE) is not None
        run_folder.close_run()
        assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_later_ranks_of_a_launch_go_where_the_first_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_checkpoint(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    run_folder.open_run(tmp_path, "fit", run.path)  # the first rank holds it by now
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert start_checkpoint.where_to_start("last", tmp_path, "")[1] == run.path, "started by Lightning"
    os.environ.pop(run_folder.ENVIRONMENT)  # monkeypatch would set it again in the end
    assert start_checkpoint.where_to_start("last", tmp_path, "")[1] == run.path, "started by torchrun"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two")
    assert start_checkpoint.where_to_start("last", tmp_path, "")[1] is None, "of another launch"
    run_folder.close_run()


# Requeued SLURM jobs.


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., run_folder.RunFolder]:
    """Start a fit of one configuration in a SLURM job, as the command line does."""

    def start(config: str, job: str = "77", restarts: int = 0, checkpoint: str | None = None) -> run_folder.RunFolder:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        if restarts:
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        _, continued = start_checkpoint.where_to_start(checkpoint, tmp_path, config)
        run = run_folder.open_run(tmp_path, "fit", continued)
        (run.path / "config.yaml").write_text(config)
        run_folder.close_run()
        return run

    return start


Start = Callable[..., run_folder.RunFolder]


def save(path: Path, age: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_a_requeued_job_goes_on_in_its_own_folder(slurm: Start) -> None:
    first = slurm("a")
    assert slurm("a").path != first.path, "the same job, not requeued: another run"
    others = [slurm("a", job="78"), slurm("b")]
    second = slurm("a", restarts=1)
    assert second.path.name == "fit-002", "the newest of this job and this configuration"
    assert second.attempt == 2
    assert slurm("b", restarts=2).path == others[1].path
    assert slurm("c", restarts=2).path.name == "fit-005", "stopped before it had a folder"


def test_a_requeued_job_starts_from_the_newest_it_saved(slurm: Start, tmp_path: Path) -> None:
    run = slurm("a").path
    slurm("a", restarts=1)
    assert start_checkpoint.where_to_start(None, tmp_path, "a") == (None, run)
    last = save(run / "checkpoints/last.ckpt", age=10)
    assert start_checkpoint.where_to_start(None, tmp_path, "a") == (last, run)
    hpc = save(run / "hpc_ckpt_2.ckpt", age=5)
    save(run / "hpc_ckpt_1.ckpt", age=20)
    assert start_checkpoint.where_to_start("best", tmp_path, "a") == (hpc, run), "whatever the first start began from"
    save(run / "checkpoints/last.ckpt", age=1)
    assert start_checkpoint.where_to_start("last", tmp_path, "a") == (last, run)
    assert start_checkpoint.run_of_checkpoint(hpc) == run


def test_a_requeued_job_begins_where_it_was_told_until_it_has_saved(slurm: Start, tmp_path: Path) -> None:
    given = tmp_path / "given.ckpt"
    with zipfile.ZipFile(given, "w") as archive:
        archive.writestr("data.pkl", b"")
    run = slurm("a", checkpoint=str(given)).path
    slurm("a", restarts=1, checkpoint=str(given))
    assert start_checkpoint.where_to_start(str(given), tmp_path, "a") == (given, run)


def test_of_two_requeued_commands_of_one_job_each_goes_on_in_its_own(slurm: Start, tmp_path: Path) -> None:
    runs = [slurm("a").path for _ in range(2)]
    held = locks.take(runs[1] / run_folder.LOCK_FILE)
    assert held is not None
    assert slurm("a", restarts=1).path == runs[0]
    held.release()
    assert slurm("a", restarts=1).path == runs[1]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"run_id": "x"}', b'{"run_id": 1, "attempt": 1}', b'{"a":' * 9999]
)
def test_a_damaged_identity_is_refused_and_what_is_said_to_do_works(tmp_path: Path, content: bytes) -> None:
    run = finished(tmp_path)
    with zipfile.ZipFile(run.path / "checkpoints/last.ckpt", "w"):
        pass
    (run.path / "run.json").write_bytes(content)
    checkpoint, continued = start_checkpoint.where_to_start("last", tmp_path, "")
    with pytest.raises(UserError, match=r"run\.json") as caught:
        run_folder.open_run(tmp_path, "fit", continued)
    assert (
        caught.value.remedy
        == "remove it and name the run's checkpoint file with --ckpt_path: a new run goes on from there"
    )
    (run.path / "run.json").unlink()
    assert start_checkpoint.where_to_start(str(checkpoint), tmp_path, "") == (checkpoint, None)


@pytest.mark.parametrize("name", ["config.yaml", "run.json", ".lock", "results.csv", "checkpoints/best.ckpt"])
def test_a_folder_in_the_place_of_a_runs_file_is_named(tmp_path: Path, name: str) -> None:
    run = finished(tmp_path)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run_folder.open_run(tmp_path, "fit", run.path)
    run_folder.close_run()
