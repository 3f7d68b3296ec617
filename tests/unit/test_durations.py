"""Durations in words."""

from __future__ import annotations

import pytest

from diffreid_lightning.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (45, "45 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (3605, "1 h"),
        (12_000, "3 h 20 min"),
        (90_000, "25 h"),
    ],
)
def test_a_duration_is_worded_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
