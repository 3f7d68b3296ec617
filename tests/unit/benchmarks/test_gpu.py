"""The benchmark of everything that needs a GPU: its commands exist, and one that fails does not end it."""

from __future__ import annotations

import argparse
import importlib
import re
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


class Parsed(Exception):
    """The options were understood."""


@pytest.mark.parametrize("each", [each for each in gpu.MEASUREMENTS if each.module.startswith("benchmarks.")])
def test_the_options_of_a_command_exist(each: gpu.Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: object) -> None:
        parse(parser, *given)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr("sys.argv", [each.module, *each.words.split()])
    with pytest.raises(Parsed):
        importlib.import_module(each.module).main()


def test_all_together_end_within_a_quarter_of_an_hour() -> None:
    assert len({each.name for each in gpu.MEASUREMENTS}) == len(gpu.MEASUREMENTS)
    assert sum(each.seconds for each in gpu.MEASUREMENTS) <= 15 * 60


def test_a_failure_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    sleep = "-n 1 -r 1 __import__('time').sleep(60)"
    found = [
        gpu.measure(gpu.Measurement(name, module, words, seconds), report)
        for name, module, words, seconds in (
            ("unknown", "no_such_module", "", 60),
            ("slow", "timeit", sleep, 1),
            ("good", "calendar", "2026 11", 60),
        )
    ]
    assert found == [False, False, True]
    text = report.read_text()
    assert "No module named no_such_module" in text
    assert "Not finished: more than 1 s" in text
    assert "November 2026" in text


def test_what_a_measurement_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would run beside the next one."""
    (tmp_path / "starts_another.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert not gpu.measure(gpu.Measurement("starts another", "starts_another", "", 2), tmp_path / "report.md")
    child = int(re.findall(r"^\d+$", (tmp_path / "report.md").read_text(), re.M)[0])
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_still_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert gpu.main(["--only", "generatoin"]) == 2
    assert "generation, compiled" in capsys.readouterr().err
    assert gpu.main(["--list", "--only", "compiled"]) == 0
    printed = capsys.readouterr().out
    assert "python -m benchmarks.training" in printed and "benchmarks.clustering" not in printed
