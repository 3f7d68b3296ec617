"""Trials of a sweep without training: a fake command writes what a fit leaves."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffreid_lightning.errors import UserError
from diffreid_lightning.metric_history import read_history
from diffreid_lightning.run_summary import METRICS, RunSummary
from diffreid_lightning.storage import locks
from diffreid_lightning.sweeps import trial_runner
from diffreid_lightning.sweeps.sweep_file import read_sweep
from diffreid_lightning.sweeps.sweep_study import SweepStudy
from diffreid_lightning.sweeps.trial_runner import TrialRunner
from tests.unit.sweeps.test_sweep_file import SWEEP

Fit = Callable[[float], tuple[int, list[float]]]
GRID = {"method": "grid", "parameters": {"x": {"values": [3, 1, 2]}}}


class FakeFits:
    """Fits that end at the first look: ``fit(x)`` is their exit code and what they validate."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.words: list[list[str]] = []
        self.signals: list[int] = []

    def start(self, words: list[str], environment: Any, log: Path, lock: Any, *, forked: bool) -> FakeFits:
        self.words.append(words)
        options = dict(word[2:].split("=", 1) for word in words[1:])
        run = Path(options["trainer.default_root_dir"]) / "fit-001"
        self.code, values = self.fit(float(options["x"]))
        write_curves(run, 1, enumerate(values))
        if self.code == 0:
            metrics = {"val": {"mAP": values[-1], "Rank-1": 10 * values[-1]}}
            RunSummary("fit", "id", 1, "0" * 64, metrics=metrics).write(run)
        return self

    def poll(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


def write_curves(run: Path, attempt: int, values: Any) -> None:
    file = run / f"metrics/attempt-{attempt}/metrics.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{step},{step * 10},{value}" for step, value in values]
    file.write_text("\n".join(["epoch,step,val/mAP", *lines, "9,995,"]))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeFits, TrialRunner]]:
    monkeypatch.setattr(trial_runner, "_WAIT", 0.0)
    monkeypatch.setattr(trial_runner, "GLANCE", 0.0)

    def run(
        fit: Fit, most: int | None = None, storage: str | None = "journal.log", parallel: int = 1, **changes: Any
    ) -> Any:
        fits = FakeFits(fit)
        monkeypatch.setattr(trial_runner, "start_process", fits.start)
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump({**SWEEP, **changes}))
        place = str(tmp_path / storage) if storage == "journal.log" else storage
        runner = TrialRunner(SweepStudy(read_sweep(str(file)), tmp_path / "root", place), most, parallel)
        runner.run()
        return fits, runner

    return run


def points(fits: FakeFits) -> list[float]:
    return [float(word[4:]) for words in fits.words for word in words if word.startswith("--x=")]


def states(runner: TrialRunner) -> list[tuple[str, float | None]]:
    return [(trial.state.name, trial.value) for trial in runner.study.latest().values()]


@pytest.mark.parametrize("storage", [None, "journal.log"])
def test_a_grid_runs_each_point_once_and_failed_ones_again(sweep: Any, tmp_path: Path, storage: str | None) -> None:
    fits, runner = sweep(lambda x: (int(x == 1), [x]), storage=storage, **GRID)
    assert points(fits) == [3, 1, 2]
    assert [each.name for each in runner.failures] == ["trial 001"]
    fits, runner = sweep(lambda x: (0, [x + 10]), storage=storage, **GRID)
    assert points(fits) == [1]
    assert states(runner) == [("COMPLETE", 3), ("COMPLETE", 11), ("COMPLETE", 2)]
    assert all(f"--trainer.default_root_dir={tmp_path / 'root/trials/001'}" in words for words in fits.words)
    fits, _ = sweep(lambda x: (0, [x]), storage=storage, **GRID)
    assert not fits.words


def test_a_metric_may_be_called_as_it_is_logged(sweep: Any) -> None:
    _, runner = sweep(lambda x: (0, [x]), metric={"name": "val/rank1", "goal": "maximize"}, **GRID)
    assert states(runner) == [("COMPLETE", 30), ("COMPLETE", 10), ("COMPLETE", 20)]


def test_a_trial_that_lost_its_process_is_continued(sweep: Any, tmp_path: Path) -> None:
    def killed(x: float) -> tuple[int, list[float]]:
        if x == 1:
            raise KeyboardInterrupt
        return 0, [x]

    with pytest.raises(KeyboardInterrupt):
        sweep(killed, **GRID)
    fits, runner = sweep(lambda x: (0, [x]), **GRID)
    assert points(fits) == [1, 2]
    assert all(words[-1] == "--ckpt_path=last" for words in fits.words)
    assert states(runner) == [("COMPLETE", 3), ("COMPLETE", 1), ("COMPLETE", 2)]


def test_failures_do_not_end_a_sweep_that_had_a_success_before(sweep: Any) -> None:
    grid = {"method": "grid", "parameters": {"x": {"values": [4, 1, 2, 3, 5]}}}
    sweep(lambda x: (int(x < 4), [x]), most=4, **grid)
    fits, _ = sweep(lambda x: (int(x < 4), [x]), most=5, **grid)
    assert points(fits) == [1, 2, 3, 5]


def test_a_machine_on_which_all_new_trials_fail_stops(sweep: Any) -> None:
    grid = {"method": "grid", "parameters": {"x": {"values": [9, 1, 2, 3, 4, 5]}}}
    sweep(lambda x: (0, [x]), most=1, **grid)
    fits, _ = sweep(lambda x: (1, [x]), most=6, **grid)
    assert points(fits) == [1, 2, 3]


def test_a_failed_trial_is_run_again_whatever_lies_in_its_folder(sweep: Any, tmp_path: Path) -> None:
    sweep(lambda x: (int(x == 1), [x]), **GRID)
    summary = RunSummary("fit", "id", 1, "0" * 64, metrics={"val": {"mAP": 9.0}})
    summary.write(tmp_path / "root/trials/001/fit-001")  # its test failed later
    fits, _ = sweep(lambda x: (0, [x]), **GRID)
    assert points(fits) == [1]


def test_a_folder_that_is_still_locked_is_waited_for(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(lambda x: (int(x == 1), [x]), **GRID)
    lock = locks.take(tmp_path / "root/trials/001/.lock")
    assert lock is not None
    monkeypatch.setattr("diffreid_lightning.sweeps.trial_runner.time.sleep", lambda _: lock.release())
    fits, runner = sweep(lambda x: (0, [x]), **GRID)
    assert points(fits) == [1]
    assert states(runner) == [("COMPLETE", 3), ("COMPLETE", 1), ("COMPLETE", 2)]


def test_without_locks_a_process_does_not_run_its_own_trials_twice(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    fits, _ = sweep(lambda x: (0, [x]), parallel=2, **GRID)
    assert points(fits) == [3, 1, 2]


def test_a_trial_that_was_killed_after_its_result_is_not_run_again(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SweepStudy, "end", interrupt)
        sweep(lambda x: (0, [x]), **GRID)
    fits, runner = sweep(lambda x: (0, [x]), **GRID)
    assert points(fits) == [1, 2]
    assert states(runner) == [("COMPLETE", 3), ("COMPLETE", 1), ("COMPLETE", 2)]


def test_a_continued_random_search_draws_other_values(sweep: Any) -> None:
    given = {"parameters": {"x": {"min": 0.0, "max": 1.0}}}
    first, _ = sweep(lambda x: (0, [x]), most=3, **given)
    second, runner = sweep(lambda x: (0, [x]), most=6, **given)
    assert len({*points(first), *points(second)}) == 6
    assert len(states(runner)) == 6


def test_tpe_comes_closer_than_its_random_start(sweep: Any) -> None:
    given = {"method": "bayes", "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    fits, _ = sweep(lambda x: (0, [-abs(x - 0.7)]), most=25, **given)
    distances = [abs(x - 0.7) for x in points(fits)]
    assert sum(distances[10:]) / 15 < 0.5 * sum(distances[:10]) / 10


def test_bad_trials_are_stopped_early(sweep: Any) -> None:
    stopping = {"type": "hyperband", "min_iter": 2, "eta": 2}
    fits, runner = sweep(lambda x: (0, [5, x, 9]), early_terminate=stopping, **GRID)
    assert [state for state, _ in states(runner)] == ["COMPLETE", "PRUNED", "PRUNED"]  # 1 and 2 are below 3
    assert fits.signals[:1] == [signal.SIGTERM]


def test_a_sweep_ends_at_its_target_and_where_nothing_succeeds(sweep: Any, tmp_path: Path) -> None:
    metric = {"name": "val/mAP", "goal": "minimize", "target": 1.5}
    fits, _ = sweep(lambda x: (0, [x]), metric=metric, **GRID)
    assert points(fits) == [3, 1]
    fits, _ = sweep(lambda x: (0, [x]), metric=metric, **GRID)
    assert not fits.words, "an earlier start has reached it"
    with pytest.raises(UserError, match="another sweep file"):
        sweep(lambda x: (1, []))
    (tmp_path / "root").rename(tmp_path / "aside")
    fits, runner = sweep(lambda x: (0, [float("nan")]), **{**GRID, "parameters": {"x": {"min": 1, "max": 9}}})
    assert points(fits) == [1, 2, 3]
    assert runner.failures[0].why == "its summary has no finite val/mAP"


def test_a_sweep_ends_with_the_first_trial_that_has_not_logged_its_metric(sweep: Any) -> None:
    begun: list[float] = []

    def fit(x: float) -> tuple[int, list[float]]:
        begun.append(x)
        return 0, [x]

    with pytest.raises(UserError, match=r"waits for val/map, .*\n.*\n.* val/mAP, val/Rank-1\n"):
        sweep(fit, metric={"name": "val/map", "goal": "maximize"}, **GRID)
    assert begun == [3]


def test_validations_of_all_attempts_are_read_once(tmp_path: Path) -> None:
    write_curves(tmp_path, 1, [(1, 0.1), (2, 0.2), (3, 0.3)])
    write_curves(tmp_path, 2, [(3, 0.3), (4, 0.5)])
    history = read_history(tmp_path / METRICS)
    assert history["val/mAP"][1].tolist() == [0.1, 0.2, 0.3, 0.5]
    assert "val/loss" not in history


def test_an_unusable_storage_is_refused_without_its_password(sweep: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        sweep(lambda x: (0, [x]), storage="nonsense://user:secret@host/name", **GRID)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "root/sweep.json").exists()
    fits, _ = sweep(lambda x: (0, [x]), **GRID)
    assert points(fits) == [3, 1, 2], "the folder is not bound to it"


def test_the_report_lists_all_trials_and_draws_importance(
    sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from diffreid_lightning.sweeps.sweep_report import report

    parameters = {"x": {"values": [1, 2, 3]}, "y": {"value": None}}
    _, runner = sweep(lambda x: (int(x == 1), [x]), method="grid", parameters=parameters)
    report(runner.study, Console(width=200))
    with (tmp_path / "root/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["val/mAP"], row["x"]) for row in rows] == [
        ("000", "failed", "1.0", "1"),
        ("001", "done", "2.0", "2"),
        ("002", "done", "3.0", "3"),
    ]
    assert (tmp_path / "root/importance.png").read_bytes().startswith(b"\x89PNG")
    assert "again: python -m diffreid_lightning fit --x=3 --y=null\n" in capsys.readouterr().out


def test_importance_is_the_share_of_the_variance(sweep: Any) -> None:
    from diffreid_lightning.sweeps.sweep_report import explained_variance

    parameters = {"x": {"values": [1, 4]}, "y": {"min": 0.0, "max": 1.0}, "z": {"min": 0.0, "max": 1.0}}
    _, runner = sweep(lambda x: (0, [x]), most=12, parameters=parameters)
    shares = explained_variance(runner.study)
    assert shares["x"] > 0.8 and sum(shares.values()) == pytest.approx(1)
