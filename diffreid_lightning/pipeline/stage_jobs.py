"""Run stages of a chain, several at once: each after those it reads, and first those that most others wait for."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diffreid_lightning.config_files import settings_of
from diffreid_lightning.cores import THREADS, environment_with_threads, usable_cores
from diffreid_lightning.errors import DiffReIDError
from diffreid_lightning.pipeline.earlier_outputs import Aside
from diffreid_lightning.pipeline.fingerprints import hash_ahead
from diffreid_lightning.pipeline.forked_command import start_server
from diffreid_lightning.pipeline.graph import Chain, Stage
from diffreid_lightning.pipeline.job_process import (
    DEVICES,
    GLANCE,
    JobProcess,
    can_fork,
    choose_device,
    start_process,
    visible_devices,
)
from diffreid_lightning.pipeline.stage_attempt import Attempt
from diffreid_lightning.pipeline.stage_plan import plan_one
from diffreid_lightning.pipeline.stage_process import LoggedTerminal, heard_by_children, stage_environment
from diffreid_lightning.storage.locks import FileLock

_REDRAW = 0.25  # seconds between two looks of the display
_MOST = 2  # a third has little to do: beside the longest path, the other stages of the tour take less time than it


def default_jobs() -> int:
    """Return how many stages run at once by default.

    One where there is a GPU, whose memory they would compete for; two on a CPU, as far as it has cores for the threads
    that the environment gives to each.
    """
    threads = os.environ.get(THREADS, "")
    each = int(threads) if threads.isdecimal() else 1
    return 1 if visible_devices() else max(1, min(_MOST, usable_cores() // max(1, each)))


@dataclass
class _Running:
    attempt: Attempt
    process: JobProcess
    device: str | None
    terminal: LoggedTerminal | None


class StageJobs:
    """Runs stages in processes of their own.

    Where one fails, those that run are let finish, and no other is started.

    Args:
        chain: the chain.
        parallel: how many run at once.
        aside: takes earlier outputs.
        lock: of the chain's folder; the stages hold it, too.
        console: for a line where a stage begins and where it ends, and on a terminal one for each that runs.
    """

    def __init__(self, chain: Chain, parallel: int, aside: Aside, lock: FileLock, console: Console) -> None:
        self.chain = chain
        self.parallel = parallel
        self.aside = aside
        self.lock = lock
        self.console = console
        self._on_terminal = sys.stdout.isatty()
        self._forked = can_fork()
        self._devices = visible_devices()
        self._running: list[_Running] = []
        self._error: DiffReIDError | None = None
        self._live = Live(console=console, get_renderable=self._rows, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what has changed.

        Args:
            stages: the stages, each after those it reads.

        Raises:
            UserError: a stage refused its input.
            RunError: a stage failed.
            KeyboardInterrupt: a signal has arrived; the stages have ended, and go on with the next start.
        """
        waiting = by_urgency(stages)
        with self._live if self._on_terminal else nullcontext():
            try:
                while self._running or (waiting and self._error is None):
                    self._collect()
                    self._start_ready(waiting)
                    self._wait()
            except BaseException as error:
                self._end_all(told=isinstance(error, KeyboardInterrupt) and heard_by_children(error))
                raise
        if self._error is not None:
            raise self._error

    def _start_ready(self, waiting: list[Stage]) -> None:
        """Start stages that wait for no other, as long as there is room, and pass over those that are done."""
        unsettled = {stage.name for stage in waiting} | {each.attempt.stage.name for each in self._running}
        for stage in list(waiting):
            if self._error is not None or len(self._running) >= self.parallel:
                return
            if not unsettled.isdisjoint(stage.reads):
                continue
            waiting.remove(stage)
            try:
                if plan_one(self.chain, stage).state in ("done", "left out"):
                    unsettled.remove(stage.name)
                else:
                    self._prepare(waiting)
                    self._start(stage)
            except DiffReIDError as error:
                self._fail(error)

    def _prepare(self, waiting: Sequence[Stage]) -> None:
        """Start the server that stages are forked from; while it imports, hash what later stages read."""
        if self._forked:
            start_server(environment_with_threads(os.environ, self.parallel)[THREADS])
            hash_ahead(self.chain, waiting)

    def _start(self, stage: Stage) -> None:
        attempt = Attempt.begin(self.chain, stage, self.aside, self.console)
        words = attempt.words()
        device = choose_device(
            settings_of(words).get("trainer.devices"), self._devices, [each.device for each in self._running]
        )
        variables = {**self.chain.environment, **({} if device is None else {DEVICES: device})}
        sharing = 1 if stage.all_threads else self.parallel
        environment = environment_with_threads(stage_environment(variables, self._on_terminal), sharing)
        terminal = LoggedTerminal(attempt.log) if self._on_terminal else None
        output = attempt.log if terminal is None else terminal.slave
        process = start_process(words, environment, output, self.lock, forked=self._forked)
        if terminal is not None:
            terminal.give_away()
        self._running.append(_Running(attempt, process, device, terminal))
        self._say(f"{stage.name}: started (log: {attempt.log})")

    def _collect(self) -> None:
        """Record the stages that have ended."""
        for each in list(self._running):
            code = each.process.poll()
            if code is None:
                continue
            self._running.remove(each)
            if each.terminal is not None:
                each.terminal.close()
            try:
                self._say(each.attempt.end(code))
            except DiffReIDError as error:
                self._fail(error)

    def _fail(self, error: DiffReIDError) -> None:
        """Keep the first error for the end."""
        self._error = self._error or error
        names = " and ".join(each.attempt.stage.name for each in self._running)
        self._say(f"{error.what} No other stage is started{f'; waiting for {names}' if names else ''}.")

    def _wait(self) -> None:
        """Show what runs, and wait a moment."""
        self._copy()
        if self._on_terminal and time.monotonic() - self._drawn > _REDRAW:
            self._live.refresh()
            self._drawn = time.monotonic()
        if self._running:
            time.sleep(GLANCE)

    def _copy(self) -> None:
        for each in self._running:
            if each.terminal is not None:
                each.terminal.copy()

    def _rows(self) -> Table:
        """Return a row for each running stage: name, minutes and seconds, and its newest line."""
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for each in self._running:
            minutes, seconds = divmod(int(time.monotonic() - each.attempt.started), 60)
            line = each.terminal.newest_line() if each.terminal is not None else ""
            table.add_row(each.attempt.stage.name, f"{minutes}:{seconds:02}", Text(line))
        return table

    def _end_all(self, told: bool) -> None:
        """End the running stages and wait for them; a further interruption tells them once more.

        Args:
            told: they have heard of the interruption.
        """
        while True:
            try:
                for each in self._running if not told else ():
                    each.process.send_signal(signal.SIGTERM)
                told = True
                while any(each.process.poll() is None for each in self._running):
                    self._copy()
                    time.sleep(GLANCE)
                break
            except KeyboardInterrupt:
                told = False
        for each in self._running:
            if each.terminal is not None:
                each.terminal.close()

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


def by_urgency(stages: Sequence[Stage]) -> list[Stage]:
    """Sort stages by the number of those that wait for them, directly or not; equal ones stay in their order.

    Args:
        stages: each after those it reads.
    """
    ahead: dict[str, set[str]] = {}
    for stage in stages:
        read = [name for name in stage.reads if name in ahead]
        ahead[stage.name] = set(read).union(*(ahead[name] for name in read))
    return sorted(stages, key=lambda stage: -sum(stage.name in names for names in ahead.values()))
