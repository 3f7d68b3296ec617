"""Statistics over seeds, compared with scipy's own tests and with a direct simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from diffreid_lightning.benchmark.paired_differences import (
    holm,
    interval,
    paired_p_value,
    paired_values,
    simultaneous,
)


@pytest.mark.parametrize("seed", range(5))
def test_difference_and_p_value_are_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 8))
    one = dict(enumerate(random.normal(50, 3, count).tolist()))
    other = dict(enumerate(random.normal(48, 3, count).tolist()))
    theirs = stats.ttest_rel(list(one.values()), list(other.values()))
    found = interval(paired_values(one, other))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert paired_p_value(paired_values(one, other)) == pytest.approx(theirs.pvalue)
    wide = interval(paired_values(one, other), simultaneous(0.95, 10))
    assert (wide.low, wide.high) == pytest.approx(tuple(theirs.confidence_interval(0.995)))


def test_only_seeds_that_both_have_are_compared() -> None:
    assert paired_values({0: 5.0, 1: 7.0, 3: 1.0}, {1: 4.0, 0: 3.0, 2: 9.0}) == [2.0, 3.0]
    alone = interval(paired_values({0: 3.0}, {0: 1.0}))
    assert alone.mean == 2.0 and alone.half is None and math.isnan(alone.low)
    assert paired_p_value([2.0]) is None


@pytest.mark.parametrize("differences", [[0.0, 0.0, 0.0], [2.0, 2.0], [0.1, 0.1, 0.1]])
def test_repeats_of_one_measurement_have_neither_interval_nor_p_value(differences: list[float]) -> None:
    assert paired_p_value(differences) is None
    assert (interval(differences).half, interval(differences).count) == (None, len(differences))


def naive_holm(p_values: list[float], level: float) -> list[bool]:
    """Reject one hypothesis after the other, as the paper has it, and stop at the first that stays."""
    rejected = [False] * len(p_values)
    for step, number in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        if p_values[number] > level / (len(p_values) - step):
            break
        rejected[number] = True
    return rejected


@pytest.mark.parametrize("seed", range(10))
def test_holm_rejects_what_the_stepwise_procedure_rejects(seed: int) -> None:
    random = np.random.default_rng(seed)
    p_values = (random.random(int(random.integers(1, 9))) ** 3).tolist()
    adjusted = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.2, 0.9):
        assert [value <= level for value in adjusted] == naive_holm(p_values, level)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))


def test_holm_does_not_depend_on_the_order() -> None:
    p_values = [0.04, 0.01, 0.01, 0.3]
    for order in itertools.permutations(range(4)):
        found = holm([p_values[number] for number in order])
        assert found == pytest.approx([holm(p_values)[number] for number in order])
    assert holm(p_values) == pytest.approx([0.08, 0.04, 0.04, 0.3])
    assert holm([]) == []


def test_simultaneous_intervals_hold_together() -> None:
    """Of 2,000 tables of 8 differences without any effect, at most about 5 % have an interval that excludes 0."""
    random = np.random.default_rng(0)
    tables = random.normal(size=(2000, 8, 5))
    each = simultaneous(0.95, 8)
    halves = stats.t.ppf(0.5 + each / 2, 4) * tables.std(axis=2, ddof=1) / math.sqrt(5)
    assert interval(tables[0, 0].tolist(), each).half == pytest.approx(halves[0, 0])
    missed = (np.abs(tables.mean(axis=2)) > halves).any(axis=1).mean()
    assert 0.035 < missed < 0.06
