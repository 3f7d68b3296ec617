"""The benchmark of waiting threads: what each process inherits, that busy ones end, and the table."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

import pytest

from benchmarks import step_clock, waiting


def test_every_value_is_measured_beside_every_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Mapping[str, str]]] = []

    def answer(module: str, row: str, words: Sequence[str], variables: Mapping[str, str]) -> dict[str, float]:
        assert not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys(), "what a process inherits"
        asked.append((row, variables))
        return {"seconds": len(asked) / 1000}

    monkeypatch.setattr(waiting, "measure", answer)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = waiting.measure_all([0, 1], 3, [])
    assert asked[:3] == [("unset", {}), ("unset", {}), ("0", {"GOMP_SPINCOUNT": "0"})] and len(asked) == 3 * 4 * 2
    assert found["unset", 1] == [0.002, 0.010, 0.018], "in turn"
    assert waiting.table(found)[:3] == [
        "| `GOMP_SPINCOUNT` | idle | beside 1 busy process |",
        "|---|---|---|",
        "| unset, torch's default | 9 | 10 |",
    ]


def test_a_measurement_has_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "subprocess.run",
        lambda *_, env, **__: subprocess.CompletedProcess([], 0, json.dumps({"seconds": env["X"]}), ""),
    )
    assert step_clock.measure("m", "row", [], {"X": "3"}) == {"seconds": "3"}


def test_busy_processes_end_with_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def note(command: list[str]) -> subprocess.Popen[bytes]:
        begun.append(start(command))
        return begun[-1]

    monkeypatch.setattr("subprocess.Popen", note)
    with pytest.raises(KeyboardInterrupt), waiting.busy_processes(2):
        assert [process.poll() for process in begun] == [None, None]
        raise KeyboardInterrupt
    assert all(process.poll() is not None for process in begun)


def test_a_step_is_timed(capsys: pytest.CaptureFixture[str], restore_threads: None) -> None:
    assert waiting.main(["--row", "0", "--warm-up", "1", "--steps", "1", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0
