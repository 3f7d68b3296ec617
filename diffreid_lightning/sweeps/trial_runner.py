"""Run the trials of a sweep, several at once: each is a ``fit`` in a process and a run folder of its own."""

from __future__ import annotations

import math
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from diffreid_lightning.benchmark.job_runner import Failure
from diffreid_lightning.benchmark.jobs import FIRST_RUN, set_aside_dead_end
from diffreid_lightning.config_files import settings_of
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.metric_history import read_history
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
from diffreid_lightning.pipeline.stage_process import heard_by_children
from diffreid_lightning.run_summary import FILE as SUMMARY_FILE
from diffreid_lightning.run_summary import METRIC_NAMES, METRICS, sound_summary
from diffreid_lightning.sweeps.sweep_study import Attempt, SweepStudy
from diffreid_lightning.sweeps.trial_command import trial_words, write_arguments

LOG = "log.txt"
_WAIT = 1.0  # seconds between two looks at validations and at the trials of other processes
_HOPELESS = 3  # failures before the first success that end a sweep


@dataclass
class _Running:
    attempt: Attempt
    words: list[str]
    process: JobProcess
    device: str | None
    pruned: bool = False


class TrialRunner:
    """Run trials in processes of their own.

    Args:
        study: the trials.
        most: largest number of trials; None for all points of a grid.
        parallel: how many run at once.
    """

    def __init__(self, study: SweepStudy, most: int | None, parallel: int) -> None:
        self.study = study
        self.most = most
        self.parallel = parallel
        self.failures: list[Failure] = []
        self._forked = can_fork()
        self._devices = visible_devices()
        self._running: list[_Running] = []
        self._successes = self._failures_anew = 0

    def run(self) -> list[Failure]:
        """Run trials until there is none left, and return those that failed.

        Raises:
            UserError: the first trial has not logged the metric.
            KeyboardInterrupt: a signal has arrived; the running trials have been ended and go on with the next start.
        """
        looked = -_WAIT
        try:
            while True:
                due = time.monotonic() - looked >= _WAIT
                if due:
                    looked = time.monotonic()
                    self._stop_early()
                self._collect()
                if due:
                    while self._has_room() and self._begin():
                        pass
                    if not self._running and not (self.study.others_at_work and self._has_room()):
                        return self.failures
                time.sleep(GLANCE)
        except BaseException as error:
            told = isinstance(error, KeyboardInterrupt) and heard_by_children(error)
            end_processes([each.process for each in self._running], told)
            for each in self._running:
                each.attempt.lock.release()
            raise

    def _has_room(self) -> bool:
        if len(self._running) >= self.parallel:
            return False
        sweep, results = self.study.sweep, self.study.results()
        if not results:
            return len(self.failures) < _HOPELESS
        if self._failures_anew >= _HOPELESS and not self._successes:
            return False  # this machine lacks something: elsewhere trials succeed
        if sweep.target is None:
            return True
        return max(results) < sweep.target if sweep.goal == "maximize" else min(results) > sweep.target

    def _begin(self) -> bool:
        """Begin a trial; return false where there is none to begin now."""
        attempt = self.study.begin(self.most)
        if attempt is None:
            return False
        try:
            value = self._value(attempt) if attempt.may_have_ended else None
            if value is None:
                self._start(attempt)
            else:  # killed between its result and its record
                self._complete(attempt, value)
                attempt.lock.release()
        except BaseException:
            attempt.lock.release()
            raise
        return True

    def _start(self, attempt: Attempt) -> None:
        set_aside_dead_end(attempt.folder)
        words = trial_words(self.study.sweep, attempt.values, attempt.folder)
        write_arguments(attempt.values, attempt.folder)
        asked = settings_of(words).get("trainer.devices")
        device = choose_device(asked, self._devices, [each.device for each in self._running])
        placed = [*words, f"--trainer.default_root_dir={attempt.folder}", "--ckpt_path=last"]
        environment = self._environment(attempt, device)
        log = attempt.folder / LOG
        process = start_process(placed, environment, log, attempt.lock, forked=self._forked)
        self._running.append(_Running(attempt, words, process, device))
        self._say(f"trial {attempt.name}: started (log: {log})")

    def _environment(self, attempt: Attempt, device: str | None) -> dict[str, str]:
        sweep = self.study.sweep
        name = f"{sweep.name}/{attempt.name}"
        environment = environment_of(name, sweep.name, "sweep", parallel=self.parallel, device=device, is_trial=False)
        for variable, value in (("WANDB_PROJECT", sweep.project), ("WANDB_ENTITY", sweep.entity)):
            if value:
                environment.setdefault(variable, value)
        return environment

    def _stop_early(self) -> None:
        """Report new validations of the running trials, and end those that the pruner gives up."""
        for each in self._running:
            if not each.pruned and self._report(each.attempt):
                each.pruned = True
                self.study.end(each.attempt, "PRUNED")
                each.process.send_signal(signal.SIGTERM)
                self._say(f"trial {each.attempt.name}: stopped early")

    def _report(self, attempt: Attempt) -> bool:
        """Report what is new in the curves of a trial; return whether the pruner gives it up."""
        sweep = self.study.sweep
        best = max if sweep.goal == "maximize" else min
        values = read_history(attempt.folder / FIRST_RUN / METRICS).get(sweep.metric, ((), ()))[1]
        while attempt.reported < len(values):
            attempt.reported += 1
            loose = sweep.stopping is not None and not sweep.stopping.strict
            value = best(values[: attempt.reported]) if loose else values[attempt.reported - 1]
            attempt.trial.report(float(value), attempt.reported)
            if attempt.trial.should_prune():
                return True
        return False

    def _collect(self) -> None:
        """Record the trials that have ended."""
        for each in [each for each in self._running if each.process.poll() is not None]:
            try:
                if not each.pruned:
                    self._record(each)
            finally:
                self._running.remove(each)
                each.attempt.lock.release()

    def _record(self, ended: _Running) -> None:
        self._report(ended.attempt)
        value, code = self._value(ended.attempt), ended.process.poll()
        if code == 0 and value is not None:
            self._complete(ended.attempt, value)
        else:
            self._fail(ended, code or 0)
            if not code and not self.study.results():
                self._refuse_unlogged(ended.attempt.folder / FIRST_RUN)

    def _refuse_unlogged(self, run: Path) -> None:
        """End the sweep where a first whole trial has not logged its metric: the others would not, either."""
        metric, summary = self.study.sweep.metric, sound_summary(run)
        if summary is None or metric in read_history(run / METRICS):  # it was not finite
            return
        raise UserError(
            f"The sweep waits for {metric}, which a whole trial has not logged.",
            looked_for=f"{metric} in {run / SUMMARY_FILE}",
            found=shorten((f"{split}/{name}" for split, found in summary.metrics.items() for name in found), 16),
            remedy="correct the metric or the command in the sweep file, and give another --root; val/... needs "
            "held-out people (--data.val_share 0.1) and a validated epoch, test/... needs --test_with",
        )

    def _complete(self, attempt: Attempt, value: float) -> None:
        self.study.end(attempt, "COMPLETE", value)
        self._successes += 1
        self._say(f"trial {attempt.name}: {self.study.sweep.metric} {value:.6g}")

    def _fail(self, running: _Running, code: int) -> None:
        attempt = running.attempt
        self.study.end(attempt, "FAIL")
        self._failures_anew += not attempt.is_again
        why = describe_ending(code) if code else f"its summary has no finite {self.study.sweep.metric}"
        command = shlex.join(["python", "-m", "diffreid_lightning", *running.words])
        self.failures.append(Failure(f"trial {attempt.name}", why, attempt.folder / LOG, command))
        self._say(f"trial {attempt.name}: {why}")

    def _value(self, attempt: Attempt) -> float | None:
        """Return the metric in the summary of a trial's run; None if there is none, or none that is finite."""
        split, _, name = self.study.sweep.metric.partition("/")
        summary = sound_summary(attempt.folder / FIRST_RUN)
        value = None if summary is None else summary.metrics.get(split, {}).get(METRIC_NAMES.get(name, name))
        return value if value is not None and math.isfinite(value) else None

    def _say(self, text: str) -> None:
        print(text, flush=True)
