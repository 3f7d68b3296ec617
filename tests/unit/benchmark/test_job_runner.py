"""Order, number and devices of running jobs, and what happens where one fails or is somebody else's."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diffreid_lightning.benchmark import job_runner
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.job_runner import JobRunner, print_failures
from diffreid_lightning.benchmark.jobs import FIRST_RUN, Job
from diffreid_lightning.cli.run_folder import find_fits, run_number
from diffreid_lightning.pipeline import job_process
from diffreid_lightning.run_summary import RunSummary
from diffreid_lightning.storage.locks import FileLock
from tests.unit.benchmark.conftest import MakeGrid


class FakeProcess:
    """A command that ends after some looks at it, and leaves what the real one would."""

    def __init__(self, code: int, looks: int, folder: Path | None) -> None:
        self.code, self.looks, self.folder = code, looks, folder
        self.signals: list[int] = []

    def poll(self) -> int | None:
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.folder is not None and not self.code:
            self.folder.mkdir(parents=True, exist_ok=True)
            summary = RunSummary("fit", "id", 1, "0", metrics={"test": {"mAP": 50.0, "Rank-1": 60.0}}, steps=3)
            summary.write(self.folder)
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.looks = 0


@dataclass
class World:
    """Stands in for the system that runs commands."""

    jobs: dict[str, Job]
    place: Workplace
    codes: dict[str, int] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    environments: dict[str, Mapping[str, str]] = field(default_factory=dict)
    most: int = 0
    running: dict[str, FakeProcess] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], log: Path, lock: FileLock, *, forked: bool
    ) -> FakeProcess:
        (job,) = (job for job in self.jobs.values() if self.place.log(job) == log)
        for name in job.needs:
            assert self.place.state(self.jobs[name], self.jobs) == "done", f"{job.name} before {name}"
        folder = None if job.cell is None else self.place.folder(job) / (FIRST_RUN if words[0] == "fit" else "test-001")
        log.write_text(f"the last words of {job.name}\n")
        self.started.append(job.name)
        self.environments[job.name] = environment
        self.running = {name: process for name, process in self.running.items() if process.looks > 0}
        process = self.running[job.name] = FakeProcess(self.codes.get(job.name, 0), self.rng.randint(1, 4), folder)
        self.most = max(self.most, len(self.running))
        return process


@pytest.fixture
def world(make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    grid = make_grid()
    made = World(expand(grid), Workplace(grid.root, {label: f"/{label}" for label in grid.datasets}))
    monkeypatch.setattr(job_runner, "start_process", made.start)
    monkeypatch.setattr(job_runner, "can_fork", lambda: True)
    monkeypatch.setattr(job_runner, "visible_devices", list)
    monkeypatch.setattr(job_runner, "GLANCE", 0.0)
    monkeypatch.setattr(job_runner, "_WAIT", 0.0)
    return made


def runner(world: World, parallel: int = 1, trial: str | None = None) -> JobRunner:
    return JobRunner(world.place, world.jobs, "group", parallel, trial)


@pytest.mark.parametrize("parallel", [1, 3])
def test_every_job_runs_once_after_those_it_needs(world: World, parallel: int) -> None:
    assert not runner(world, parallel).run(world.jobs)
    assert sorted(world.started) == sorted(world.jobs)
    assert world.most == parallel
    assert all(world.place.state(job, world.jobs) == "done" for job in world.jobs.values())
    world.started.clear()
    assert not runner(world, parallel).run(world.jobs)
    assert not world.started, "what is done is skipped"


def test_a_failure_stops_what_needs_it_and_nothing_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "diff-person/supervised/market/seed-0"
    world.codes[broken] = 2
    failures = runner(world, 2).run(world.jobs)
    dependent = {name for name, job in world.jobs.items() if broken in job.needs}
    assert len(dependent) == 2
    assert {failure.name for failure in failures} == {broken} | dependent
    assert sorted(world.started) == sorted(set(world.jobs) - dependent)
    print_failures(failures)
    text = capsys.readouterr().out
    assert f"the last words of {broken}" in text and "alone: python -m diffreid_lightning fit" in text
    assert "--ckpt_path=last" in text, "so that it writes the run whose results are read"
    assert f"not started, since {broken} failed" in text
    world.started.clear()
    world.codes.clear()
    assert not runner(world).run(world.jobs)
    assert sorted(world.started) == sorted({broken} | dependent), "it is tried again, and nothing else"


def test_a_cell_without_a_result_has_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "scratch/supervised/market/seed-0"
    monkeypatch.setattr(RunSummary, "write", lambda *_: None)
    (failure,) = runner(world).run({name: world.jobs[name]})
    assert "without the mAP and Rank-1" in failure.why


def test_a_chain_in_a_grid_runs_one_stage_at_a_time(world: World) -> None:
    job = next(job for job in world.jobs.values() if job.words[0] == "pipeline")
    assert job_runner.command_of(job, world.place, resume=True)[-1] == "--jobs=1"
    assert "--jobs" not in job_runner.shell_command(job, world.place)


def test_a_run_that_has_a_last_checkpoint_goes_on_from_it(world: World) -> None:
    job = world.jobs["scratch/supervised/market/seed-0"]
    words = job_runner.command_of(job, world.place, resume=True)
    assert words[-1] == "--ckpt_path=last", "which starts from the beginning where there is none"
    last = world.place.folder(job) / FIRST_RUN / "checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert job_runner.command_of(job, world.place, resume=True)[-1] == f"--ckpt_path={last.parents[1]}"
    direct = world.jobs["scratch/direct/market-to-duke/seed-0"]
    assert job_runner.command_of(direct, world.place, resume=True).count("--ckpt_path") == 1


@pytest.mark.parametrize(
    ("left", "stays"),
    [
        ({"fit-001/run.json"}, True),
        ({"fit-001/summary.json", "fit-001/checkpoints/last.ckpt"}, True),
        ({"fit-001/run.json", "fit-001/summary.json"}, False),
        ({"fit-001/metrics/attempt-1/metrics.csv"}, False),
        ({"fit-001/run.json", "fit-002/run.json"}, False),
    ],
)
def test_a_fit_that_would_write_a_second_run_writes_the_first(world: World, left: set[str], stays: bool) -> None:
    job = world.jobs["scratch/supervised/market/seed-0"]
    folder = world.place.folder(job)
    world.place.end(job, world.place.begin(job, world.jobs), 1, 0.0)
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert not runner(world).run({job.name: job})
    kept = folder if stays else folder / "earlier_1"
    assert all((kept / name).is_file() for name in left)
    assert [each.name for each in find_fits(folder)] == [FIRST_RUN]
    assert max(map(run_number, folder.iterdir())) == 1, "else the next run would not be the first"


def test_a_result_without_its_record_is_not_made_again(world: World) -> None:
    job = world.jobs["scratch/supervised/market/seed-0"]
    world.place.begin(job, world.jobs)
    folder = world.place.folder(job) / FIRST_RUN
    folder.mkdir()
    RunSummary("fit", "id", 1, "0", metrics={"test": {"mAP": 1.0, "Rank-1": 2.0}}).write(folder)
    assert not runner(world).run({job.name: job})
    assert not world.started
    assert world.place.state(job, world.jobs) == "done"


def test_jobs_that_others_are_at_are_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.jobs["scratch/supervised/market/seed-0"]
    lock = world.place.lock(job)
    assert lock is not None
    looks: list[float] = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:  # the other process ends
            world.place.end(job, world.place.begin(job, world.jobs), 0, 1.0)
            lock.release()

    monkeypatch.setattr("diffreid_lightning.benchmark.job_runner.time.sleep", wait)
    assert not runner(world).run({job.name: job})
    assert len(looks) == 3 and not world.started


@pytest.mark.parametrize("before", ["to do", "failed", "at work"])
def test_what_has_just_failed_in_another_process_is_not_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    job = world.jobs["scratch/supervised/market/seed-0"]
    lock = world.place.lock(job)
    assert lock is not None
    if before != "to do":
        world.place.begin(job, world.jobs)
    begun = world.place.record(job)
    if before == "failed" and begun is not None:
        world.place.end(job, begun, 1, 1.0)

    def wait(_: float) -> None:  # until the other process has ended it
        own = begun if before == "at work" and begun is not None else world.place.begin(job, world.jobs)
        world.place.end(job, own, 2, 1.0)
        lock.release()

    with monkeypatch.context() as patch:
        patch.setattr("diffreid_lightning.benchmark.job_runner.time.sleep", wait)
        (failure,) = runner(world).run({job.name: job})
    assert failure.why == "ended with exit code 2, in another process" and not world.started
    assert not runner(world).run({job.name: job}), "a later start tries it again"
    assert world.started == [job.name]


def test_an_interruption_ends_what_runs_and_leaves_it_to_be_continued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffreid_lightning.benchmark.job_runner.time.sleep", interrupt)
    monkeypatch.setattr(world.rng, "randint", lambda *_: 100)
    running = runner(world, 2)
    with pytest.raises(KeyboardInterrupt):
        running.run(world.jobs)
    assert len(world.running) == 2
    assert all(process.signals[0] == signal.SIGTERM for process in world.running.values())
    assert {world.place.state(world.jobs[name], world.jobs) for name in world.running} == {"interrupted"}


def test_one_job_at_a_time_has_one_gpu_too_unless_it_says_how_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "visible_devices", lambda: ["3", "5"])
    runner(world).run(world.jobs)
    chains = {name for name, job in world.jobs.items() if job.words[0] == "pipeline"}
    used = {name: environment.get("CUDA_VISIBLE_DEVICES") for name, environment in world.environments.items()}
    assert {device for name, device in used.items() if name not in chains} == {"3"}
    assert chains and not {used[name] for name in chains} & {"3", "5"}, "stages that ask for several have them"
    for asked in (2, "2", -1, [0, 1], "0,1"):
        assert job_process.choose_device(asked, ["3", "5"], ["3"]) is None
    for asked in (None, "auto", 1, "1", [0]):
        assert job_process.choose_device(asked, ["3", "5"], ["3"]) == "5"
    assert job_process.choose_device(None, [], []) is None


@pytest.mark.parametrize("where", ["flag", "config"])
def test_a_grid_that_asks_for_several_gpus_has_them_all(
    where: str, make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two.yaml").write_text("trainer: {devices: 2}\n")
    flags = {"flag": "--trainer.devices 2", "config": f"--config {tmp_path / 'two.yaml'}"}
    grid = make_grid({"flags": flags[where]})
    jobs = expand(grid)
    asking = JobRunner(Workplace(grid.root, {}), jobs, "group", 1)._devices_of(jobs["scratch/supervised/market/seed-0"])
    assert str(asking) == "2"


def test_a_job_is_no_process_of_the_launcher_that_started_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"):
        monkeypatch.setenv(name, "1")
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "NAME"):
        monkeypatch.setenv(name, "2")
    found = job_process.environment_of("x", "g", "k", parallel=1, device=None, is_trial=False)
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"} & {
        *found
    }
    assert [found[name] for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "NAME")] == ["2"] * 3


def test_gpus_are_shared_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "visible_devices", lambda: ["3", "5"])
    runner(world, 4).run(world.jobs)
    used = [environment["CUDA_VISIBLE_DEVICES"] for environment in world.environments.values()]
    assert set(used) == {"3", "5"} and 0.3 < used.count("3") / len(used) < 0.7


def test_runs_share_a_wandb_group_and_none_is_a_chains_or_an_agents(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = "diff-person/supervised/market/seed-0"
    for name, value in {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r", "DIFFREID_DATA": "elsewhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    from diffreid_lightning.benchmark.jobs import choose

    runner(world, 1, trial).run(choose(world.jobs, trial))
    assert len(world.environments) == 3
    for name, environment in world.environments.items():
        assert environment["WANDB_RUN_GROUP"] == "group"
        assert environment.get("WANDB_NAME") == (None if world.jobs[name].words[0] == "pipeline" else name)
        assert int(environment["OMP_NUM_THREADS"]) >= 1
        assert "DIFFREID_DATA" not in environment, "a command's key does not cover it"
        assert ("WANDB_RUN_ID" in environment) == ("WANDB_SWEEP_ID" in environment) == (name == trial)


def test_devices_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert job_process.visible_devices() == ["GPU-a", "GPU-b"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert job_process.visible_devices() == ["0", "1"]
    assert not job_process.can_fork()
