from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from experiments.instruments.report import share_of, table, wilson, write_json


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (1, 2), (953, 1000), (38, 51)])
def test_wilson_is_scipys(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = wilson(right, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.share == right / count


@pytest.mark.parametrize(("right", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(right, count):
    with pytest.raises(ValueError, match="not a share"):
        wilson(right, count)


def test_images_of_one_person_do_not_narrow_the_interval():
    people = np.arange(40)
    hits = people % 4 > 0
    once, tenfold = share_of(hits, people), share_of(np.repeat(hits, 10), np.repeat(people, 10))
    assert (tenfold.share, tenfold.low, tenfold.high) == pytest.approx((once.share, once.low, once.high))
    assert tenfold.count == 400 and tenfold.high - tenfold.low > 2 * (share_of(np.repeat(hits, 10)).high - 0.75)
    uneven = share_of(np.repeat(hits, np.where(hits, 1, 5)), np.repeat(people, np.where(hits, 1, 5)))
    assert uneven.share == 30 / 80 and uneven.low < uneven.share < uneven.high, "the share is of the images"
    every = share_of(np.repeat(hits | True, 10), np.repeat(people, 10))
    assert every.share == 1 and every.low == pytest.approx(wilson(40, 40).low)


def test_results_are_json_with_the_shares_numbers(tmp_path):
    write_json(tmp_path / "deep" / "results.json", {"sex": wilson(3, 4), "images": 4})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]
    read = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert (read["sex"]["right"], read["sex"]["count"], read["images"]) == (3, 4, 4)


def test_every_row_of_a_table_has_its_cells():
    lines = table("Title", ["", "share"], [("one", 1), ("two", 2)]).splitlines()
    assert {line.count("|") for line in lines[-4:]} == {3}
