"""Several stages at once: order, failure, interruption, the share of the machine that each has, a terminal."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diffreid_lightning.cli import main
from diffreid_lightning.cli.signals import Terminated
from diffreid_lightning.pipeline import stage_jobs, stage_process
from diffreid_lightning.pipeline.fingerprints import begun_file, record_file
from diffreid_lightning.pipeline.graph import read_chain
from diffreid_lightning.pipeline.stage_jobs import by_urgency, default_jobs
from diffreid_lightning.pipeline.stage_process import LoggedTerminal

CHAIN = """
variables: {root: out}
stages:
  beside: {run: fit --config one.yaml, makes: [made.txt]}
  first: {run: fit --config one.yaml, makes: [made.txt]}
  second: {run: fit --config one.yaml, reads: [first], makes: [made.txt]}
  third: {run: fit --config one.yaml, reads: [second], makes: [made.txt]}
"""
BAR = "\x1b[2K\rEpoch 3/9 \x1b[35m━━━━\x1b[0m 12/22 4.10it/s".encode()


@dataclass
class Command:
    """A running command that ends after some looks at it, or at a signal."""

    world: World
    name: str
    looks: float
    signals: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        self.looks -= 1
        if self.looks > 0:
            return None
        code = -self.signals[0] if self.signals else self.world.codes.get(self.name, 0)
        if not code:
            (Path("out") / self.name).mkdir(exist_ok=True)
            (Path("out") / self.name / "made.txt").write_text(self.name, encoding="utf-8")
        return code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.looks = 0


@dataclass
class World:
    """Stands in for the system that runs commands."""

    looks: dict[str, float] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], output: Path | int, *_: object, **__: bool
    ) -> Command:
        if isinstance(output, Path):
            name = output.stem
            output.write_text(f"the last words of {name}\n", encoding="utf-8")
        else:
            name = self.names[len(self.started)]
            os.write(output, BAR)
        self.started.append(name)
        self.environments.append(environment)
        self.commands[name] = Command(self, name, self.looks.get(name, 2))
        return self.commands[name]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.yaml").write_text(CHAIN, encoding="utf-8")
    (tmp_path / "one.yaml").write_text("seed_everything: 0\n", encoding="utf-8")
    made = World()
    monkeypatch.setattr(stage_jobs, "start_process", made.start)
    monkeypatch.setattr(stage_jobs, "visible_devices", list)
    monkeypatch.setattr(stage_jobs, "can_fork", lambda: False)
    monkeypatch.setattr(stage_jobs, "GLANCE", 0.0)
    return made


def pipeline(jobs: int = 2) -> int:
    return main(["pipeline", "--config", "chain.yaml", "--jobs", str(jobs)])


def finished() -> set[str]:
    return {name for name in ("beside", "first", "second", "third") if record_file(Path("out"), name).exists()}


def test_the_stages_of_the_tour_come_before_its_baselines() -> None:
    assert [stage.name for stage in by_urgency(read_chain(["chains/tour"], {}).stages)] == [
        "caption", "personalize", "generate", "score", "score_generated", "select", "pretrain", "transfer",
        "scratch", "imagenet",
    ]  # fmt: skip


def test_what_others_wait_for_starts_first_and_what_nobody_waits_for_delays_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.looks["beside"] = 50
    assert pipeline() == 0
    assert world.started == ["first", "beside", "second", "third"]
    said = capsys.readouterr().out.splitlines()
    assert f"first: started (log: {Path('out/.stages/first.log')})" in said
    assert re.fullmatch(r"beside: \d+ s", said[-1]), "it ends last"
    assert pipeline() == 0
    assert len(world.started) == 4, "what is done is skipped"


def test_a_failure_lets_the_others_finish_and_starts_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.codes["first"] = 2
    world.looks["beside"] = 50
    assert pipeline() == 2
    said = capsys.readouterr()
    assert "Stage 'first' ended with exit code 2. No other stage is started; waiting for beside." in said.out
    assert "Stage 'first'" in said.err and "the last words of first" in said.err and "first.log" in said.err
    assert "python -m diffreid_lightning fit --config one.yaml" in said.err
    assert world.started == ["first", "beside"] and finished() == {"beside"}
    world.codes.clear()
    assert pipeline() == 0
    assert world.started[2:] == ["first", "second", "third"]


def test_the_first_of_two_failures_is_the_chains(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.codes.update(first=1, beside=2)
    world.looks.update(first=3, beside=6)
    assert pipeline() == 1
    said = capsys.readouterr()
    assert "Stage 'beside' ended with exit code 2." in said.out and "Stage 'first'" in said.err


@pytest.mark.parametrize(
    ("interruptions", "on_terminal", "signals"),
    [
        ([KeyboardInterrupt], False, 1),
        ([KeyboardInterrupt], True, 0),
        ([KeyboardInterrupt, KeyboardInterrupt], True, 1),
        ([Terminated], True, 1),
    ],
)
def test_an_interruption_ends_all_that_run_and_each_hears_of_it_once(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    interruptions: list[type[BaseException]],
    on_terminal: bool,
    signals: int,
) -> None:
    world.looks = dict.fromkeys(("first", "beside"), 200 if on_terminal else float("inf"))
    left = iter(interruptions)

    def interrupt(_: float) -> None:
        if len(world.started) == 2 and (error := next(left, None)):
            raise error

    monkeypatch.setattr(stage_jobs.time, "sleep", interrupt)
    monkeypatch.setattr(stage_process, "_in_foreground", lambda: on_terminal)
    assert pipeline() == 130
    assert [each.signals for each in world.commands.values()] == [[signal.SIGTERM] * signals] * 2
    assert not finished() and begun_file(Path("out"), "first").exists()
    world.looks.clear()
    assert pipeline() == 0 and finished() == {"beside", "first", "second", "third"}


def test_stages_share_threads_and_gpus_and_are_wandb_runs_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffreid_lightning.cores.usable_cores", lambda: 8)
    monkeypatch.setattr(stage_jobs, "visible_devices", lambda: ["3", "5"])
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("WANDB_RUN_ID", "chain")
    world.looks["beside"] = 50
    assert pipeline() == 0
    assert {each["OMP_NUM_THREADS"] for each in world.environments} == {"4"}
    assert [each["CUDA_VISIBLE_DEVICES"] for each in world.environments] == ["3", "5", "3", "3"]
    assert not any("WANDB_RUN_ID" in each for each in world.environments)


def test_a_stage_whose_result_does_not_depend_on_threads_gets_all_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffreid_lightning.cores.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    Path("chain.yaml").write_text(CHAIN.replace("reads: [first],", "reads: [first], all_threads: true,"), "utf-8")
    assert pipeline() == 0
    threads = dict(zip(world.started, (each["OMP_NUM_THREADS"] for each in world.environments), strict=True))
    assert threads == {"first": "4", "beside": "4", "second": "8", "third": "4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    Path("one.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    assert pipeline() == 0
    assert {each["OMP_NUM_THREADS"] for each in world.environments[4:]} == {"3"}, "the user's number comes first"


def test_a_stage_that_asks_for_two_gpus_has_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_jobs, "visible_devices", lambda: ["3", "5"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    text = CHAIN.replace("beside: {run: fit --config one.yaml", "beside: {run: fit --trainer.devices 2")
    Path("chain.yaml").write_text(
        text.replace("first: {run: fit --config one", "first: {run: fit --config two"), "utf-8"
    )
    Path("two.yaml").write_text("trainer: {devices: 2}\n", encoding="utf-8")
    assert pipeline() == 0
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in world.environments] == [None, None, "3", "3"]


@pytest.mark.parametrize(
    ("cores", "gpus", "threads", "expected"),
    [(1, [], "", 1), (2, [], "", 2), (64, [], "", 2), (64, ["0"], "", 1), (8, [], "8", 1), (8, [], "1", 2)],
)
def test_as_many_run_as_the_machine_has_room_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[str], threads: str, expected: int
) -> None:
    monkeypatch.setattr(stage_jobs, "usable_cores", lambda: cores)
    monkeypatch.setattr(stage_jobs, "visible_devices", lambda: gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert default_jobs() == expected


def test_a_terminal_shows_what_runs_with_its_newest_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(stage_jobs, "_REDRAW", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    world.names = ["first", "beside", "second", "third"]
    world.looks["beside"] = 50
    assert pipeline() == 0
    said = screen.getvalue()
    assert re.search(r"first   \d:\d\d  Epoch 3/9 ━━━━ 12/22 4.10it/s", said) and "second  0:0" in said
    assert re.search(r"third: \d+ s", said)
    assert Path("out/.stages/first.log").read_bytes() == BAR


def test_the_newest_line_is_that_of_the_last_bar(tmp_path: Path) -> None:
    terminal = LoggedTerminal(tmp_path / "a.log")
    assert terminal.newest_line() == ""
    os.write(terminal.slave, b"begin\n" + BAR + b"\x1b[1A\x1b[2K\rEpoch 4/9\x1b[?25h   \n")
    terminal.copy()
    assert terminal.newest_line() == "Epoch 4/9"
    terminal.give_away()
    terminal.close()
