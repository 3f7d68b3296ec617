from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffreid_lightning.benchmark.paired_differences import interval
from experiments.instruments.seed_tables import Column, differences_table, means_table

COLUMN = Column("shares, %", "share", 100)
RESULTS = {
    "one": {0: {"share": 0.5}, 1: {"share": 0.6}, 2: {"share": 0.7}},
    "two": {0: {"share": 0.4}, 1: {"share": 0.52}, 2: {"share": None}},
    "three": {5: {}},
}


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(2, 3, 7)
    found = interval(values)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert interval([3.0]).half is None


def test_tables_leave_out_what_was_not_measured():
    printed = means_table("Title", RESULTS, [COLUMN])
    assert "| one | 3 | 60.0 |" in printed
    assert "| two | 2 |" not in printed  # three seeds were run, of which one has no share
    assert "| two | 3 | 46.0 |" in printed
    assert "| three | 1 | - |" in printed


def test_differences_have_their_sign_and_interval():
    printed = differences_table("Title", RESULTS, "one", [COLUMN])
    half = stats.t.ppf(0.975, 1) * np.std([-10, -8], ddof=1) / np.sqrt(2)
    assert f"| two | 2 | -9.0 ± {half:.1f} |" in printed
    assert "| three | 0 | - |" in printed
    assert "| one |" not in printed
