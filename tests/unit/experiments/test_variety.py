from __future__ import annotations

import numpy as np
import pytest

from experiments.instruments.variety import entropy, vendi_score, within_people


@pytest.mark.parametrize("different", [1, 2, 3, 5])
def test_the_vendi_score_counts_what_is_different(different):
    rows = np.eye(6)[np.repeat(np.arange(different), 4)]
    assert vendi_score(3.0 * rows) == pytest.approx(different)


def test_likeness_lies_between_one_and_all():
    features = np.random.default_rng(0).normal(size=(8, 20)) + 1
    assert 1 < vendi_score(features) < 8
    assert vendi_score(features + 3) < vendi_score(features)


def test_entropy_is_in_bits_and_takes_several_labels_as_one():
    assert entropy(np.array([2, 2, 2])) == 0
    assert entropy(np.array([0, 1, 2, 3])) == pytest.approx(2)
    assert entropy(np.array([[0, 1], [0, 1], [1, 0], [1, 0]])) == pytest.approx(1)


def test_sets_are_of_one_person_and_of_one_size():
    people = np.repeat([4, 9, 7], [6, 3, 8])
    seen = []

    def measure(rows):
        seen.append(rows)
        return float(people[rows[0]])

    assert within_people(people, measure, size=4, draws=5) == pytest.approx((4 + 7) / 2)
    assert len(seen) == 10
    for rows in seen:
        assert len(set(rows)) == 4
        assert len(set(people[rows])) == 1


def test_nobody_with_enough_images_is_no_number():
    assert within_people(np.array([1, 1, 2]), lambda rows: 1.0, size=3) is None
