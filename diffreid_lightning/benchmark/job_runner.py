"""Run the jobs of a benchmark, several at once, each after those it needs; failures are listed, not raised.

Which jobs are still to run: ``Workplace.left`` in ``job_records.py``. What makes two jobs the same: ``key_of`` in
``jobs.py``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffreid_lightning.benchmark.job_records import Record, Workplace
from diffreid_lightning.benchmark.jobs import FIRST_RUN, Job, job_settings, on_this_machine, set_aside_dead_end
from diffreid_lightning.benchmark.outcomes import cell_values
from diffreid_lightning.durations import format_duration
from diffreid_lightning.pipeline.job_process import (
    GLANCE,
    JobProcess,
    can_fork,
    choose_device,
    describe_ending,
    end_processes,
    environment_of,
    start_process,
    visible_devices,
)
from diffreid_lightning.pipeline.stage_process import heard_by_children, last_words
from diffreid_lightning.storage.locks import FileLock

_WAIT = 1.0  # seconds between two looks at jobs that other processes are at work on
_NO_RESULT = "it ended without the mAP and Rank-1 that are asked for"


@dataclass
class _Running:
    job: Job
    process: JobProcess
    record: Record
    lock: FileLock
    device: str | None
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Failure:
    """A failed job.

    Args:
        name: of the job.
        why: in words.
        log: with its output; None if it was not started.
        command: that runs it alone; empty where it was not started.
    """

    name: str
    why: str
    log: Path | None = None
    command: str = ""


class JobRunner:
    """Run jobs in processes of their own.

    Args:
        place: their folders and records.
        jobs: all jobs of the grid by name.
        group: W&B group of the runs.
        parallel: how many run at once.
        trial: name of the job that a W&B sweep's agent has started this process for, or None.
    """

    def __init__(
        self, place: Workplace, jobs: Mapping[str, Job], group: str, parallel: int, trial: str | None = None
    ) -> None:
        self.place = place
        self.jobs = jobs
        self.group = group
        self.parallel = parallel
        self.trial = trial
        self.failures: dict[str, Failure] = {}
        self._forked = can_fork()
        self._devices = visible_devices()
        self._running: list[_Running] = []
        self._failed_before: dict[str, str] = {}  # tokens of records, by name of the job
        self._durations: list[float] = []
        self._left = 0

    def run(self, wanted: Mapping[str, Job]) -> list[Failure]:
        """Run what is not done yet, and return what failed.

        Args:
            wanted: jobs by name, with all that they need, each after those.

        Raises:
            KeyboardInterrupt: a signal has arrived; the running commands have been ended.
        """
        states = self.place.states(wanted, self.jobs)
        waiting = list(self.place.left(wanted, states).values())
        records = {job.name: self.place.record(job) for job in waiting if states[job.name] == "failed"}
        self._failed_before = {name: record.token for name, record in records.items() if record is not None}
        self._left = len(waiting)
        self._say(f"{self.place.root}: {len(wanted) - len(waiting)} of {len(wanted)} jobs are done or not needed")
        try:
            while waiting or self._running:
                ended = self._collect()
                began = self._start_ready(waiting)
                if not ended and not began:
                    time.sleep(GLANCE if self._running else _WAIT)
        except BaseException as error:
            self._end_all(told=isinstance(error, KeyboardInterrupt) and heard_by_children(error))
            raise
        return list(self.failures.values())

    def _start_ready(self, waiting: list[Job]) -> bool:
        """Start the jobs whose needs are done, and drop those whose needs failed; return whether there were any."""
        before = len(waiting)
        unfinished = {each.name for each in waiting} | {each.job.name for each in self._running}
        for job in list(waiting):
            if len(self._running) >= self.parallel:
                break
            failed = [name for name in job.needs if name in self.failures]
            if failed:
                self._fail(Failure(job.name, f"not started, since {failed[0]} failed"))
                waiting.remove(job)
            elif unfinished.isdisjoint(job.needs) and self._start(job):
                waiting.remove(job)
        return len(waiting) < before

    def _start(self, job: Job) -> bool:
        """Start a job; return false where another process is at work on it."""
        lock = self.place.lock(job)
        if lock is None:
            return False
        state = self.place.state(job, self.jobs)
        if state == "done":  # by another process, since the last look
            lock.release()
            self._left -= 1
            return True
        failed = self.place.record(job) if state == "failed" else None
        if failed is not None and failed.token != self._failed_before.get(job.name):  # in another process, likewise
            lock.release()
            self._fail(self._failure(job, f"{describe_ending(failed.exit_code or 1)}, in another process"))
            return True
        record = self.place.begin(job, self.jobs)
        if state == "interrupted" and self._numbers(job):  # between its result and its record
            self.place.end(job, record, 0, 0.0)
            lock.release()
            self._left -= 1
            return True
        set_aside_dead_end(self.place.folder(job))
        log = self.place.log(job)
        words = command_of(job, self.place, resume=True)
        device = choose_device(self._devices_of(job), self._devices, [each.device for each in self._running])
        process = start_process(words, self._environment(job, device), log, lock, forked=self._forked)
        self._running.append(_Running(job, process, record, lock, device))
        self._say(f"{job.name}: started (log: {log})")
        return True

    def _devices_of(self, job: Job) -> Any:
        """Return the number of devices that a job asks for; a chain alone has all, for those of its stages that do."""
        if job.words[0] == "pipeline":
            return None if self.parallel > 1 else -1
        return job_settings(job.words).get("trainer.devices")

    def _environment(self, job: Job, device: str | None) -> dict[str, str]:
        kind = "preparation" if job.cell is None else job.cell.setting
        name = None if job.words[0] == "pipeline" else job.name
        is_trial = job.name == self.trial
        return environment_of(name, self.group, kind, parallel=self.parallel, device=device, is_trial=is_trial)

    def _collect(self) -> bool:
        """Record the jobs that have ended; return whether there were any."""
        ended = [each for each in self._running if each.process.poll() is not None]
        for each in ended:
            self._running.remove(each)
            code = each.process.poll()
            assert code is not None
            seconds = time.monotonic() - each.started
            why = describe_ending(code) if code else ""
            if not code and each.job.cell is not None and self._numbers(each.job) is None:
                code, why = 1, _NO_RESULT
            self.place.end(each.job, each.record, code, seconds)
            each.lock.release()
            if code:
                self._fail(self._failure(each.job, why))
            else:
                self._durations.append(seconds)
                self._left -= 1
                took = f"{format_duration(seconds)}{self._remaining()}"
                self._say(f"{each.job.name}: {self._numbers(each.job) or 'done'}, {took}")
        return bool(ended)

    def _numbers(self, job: Job) -> str | None:
        """Return a cell's mAP and Rank-1 as text; None if it has no result."""
        if job.cell is None:
            return None
        result = self.place.result(job)
        values = cell_values(job.cell.split, None if result is None else result[1])
        return ", ".join(f"{name} {value:.1f}" for name, value in values.items()) or None

    def _remaining(self) -> str:
        if not self._left:
            return ""
        seconds = sum(self._durations) / len(self._durations) * self._left / self.parallel
        return f"; {self._left} left, about {format_duration(60 * max(1, round(seconds / 60)))}"

    def _failure(self, job: Job, why: str) -> Failure:
        # The command as it is run here: a fit of its own would write a second run, whose results nobody reads.
        return Failure(job.name, why, self.place.log(job), shell_command(job, self.place, resume=True))

    def _fail(self, failure: Failure) -> None:
        self.failures[failure.name] = failure
        self._left -= 1
        self._say(f"{failure.name}: {failure.why}")

    def _end_all(self, told: bool) -> None:
        """End the running commands; after a second signal they end with this process."""
        end_processes([each.process for each in self._running], told)
        for each in self._running:
            each.lock.release()

    def _say(self, text: str) -> None:
        print(text, flush=True)


def command_of(job: Job, place: Workplace, *, resume: bool) -> list[str]:
    """Return a job's command on this machine.

    Args:
        job: the job.
        place: where it is run.
        resume: a fit goes on from its last checkpoint; without one it starts from the beginning, in the same folder. A
            chain runs one stage at a time, since it is one of the jobs that share this machine.
    """
    words = on_this_machine(job.words, place.root, place.paths)
    if resume and words[0] == "fit" and not any(word.startswith("--ckpt_path") for word in words):
        first = place.folder(job) / FIRST_RUN
        words.append(f"--ckpt_path={first if (first / 'checkpoints/last.ckpt').is_file() else 'last'}")
    if resume and words[0] == "pipeline" and not any(word.startswith("--jobs") for word in words):
        words.append("--jobs=1")
    return words


def shell_command(job: Job, place: Workplace, *, resume: bool = False) -> str:
    """Return a job's command as a line of a shell; see :func:`command_of`."""
    return f"python -m diffreid_lightning {shlex.join(command_of(job, place, resume=resume))}"


def print_failures(failures: list[Failure]) -> None:
    """Print failures with the ends of their logs and the commands that run them alone."""
    for failure in failures:
        print(f"\nfailed: {failure.name}: {failure.why}", flush=True)
        if failure.log is not None:
            end = "\n".join(f"    {line}" for line in last_words(failure.log).splitlines())
            print(f"{end}\n  log: {failure.log}\n  alone: {failure.command}", flush=True)
