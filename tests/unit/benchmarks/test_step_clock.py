"""The clock of training benchmarks: ratios are those of rows side by side, and a row that cannot run is named."""

from __future__ import annotations

import json

import pytest

from benchmarks import step_clock


def test_a_ratio_is_taken_within_a_round() -> None:
    names = {"bare": "a loop", "fit": "fit"}
    rows = step_clock.table({"bare": [1.0, 2.0, 4.0], "fit": [1.1, 4.0, 4.4]}, names, "bare", batch=8)
    assert rows[0].endswith("| × a loop |")
    assert rows[-1].split(" | ")[1:] == ["4000 (1100 to 4400)", "2.0", "1.10 |"]
    (alone,) = step_clock.table({"fit": [1.0]}, names, "bare", batch=8)[2:]
    assert alone.endswith("| – |"), "the row beside it failed"


def test_a_row_that_fails_says_why() -> None:
    found = step_clock.measure("calendar", "no-such-row", [])
    assert "exit code 2" in found["error"] and "no-such-row" in found["error"]


def test_only_steps_after_the_warm_up_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([10.0, 16.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = step_clock.Clock(warm_up=2, steps=3)
    assert [clock.step_done() for _ in range(5)] == [False] * 4 + [True]
    assert json.loads(capsys.readouterr().out) == {"seconds": 2.0}


def test_rows_are_measured_in_turn_and_one_that_cannot_run_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(module: str, row: str, words: list[str]) -> dict[str, object]:
        asked.append(row)
        return {"error": "not installed"} if row == "peer" else {"seconds": float(len(asked))}

    monkeypatch.setattr(step_clock, "measure", answer)
    found = step_clock.measure_in_turn("m", {"bare": "a loop", "peer": "a peer", "fit": "fit"}, [], rounds=2)
    assert asked == ["bare", "peer", "fit", "bare", "fit"]
    assert found == {"bare": [1.0, 4.0], "fit": [3.0, 5.0]}
    assert "a peer: not installed" in capsys.readouterr().out
