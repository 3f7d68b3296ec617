"""Whom a stage takes, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning.datasets.identities import choose_people, describe_people
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest

KEYS = [("toy", "train", pid) for pid in (1, 2, 3)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, [0, 1, 2]), (2, [0, 1]), (["toy-0003", "<toy-0001>", "toy-0003"], [2, 0])],
)
def test_people_are_taken_by_number_and_by_name(asked: int | list[str] | None, expected: list[int]) -> None:
    assert choose_people(KEYS, asked, "training images") == expected


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (0, "from 1 to 3"),
        (4, "from 1 to 3"),
        ([], "empty list"),
        (["toy-0009"], "did you mean <toy-000"),
        (["toy-test-0004"], "other images only"),
        (["nobody"], "3 identities, such as <toy-0001>"),
    ],
)
def test_who_is_not_there_is_named(asked: int | list[str], told: str) -> None:
    with pytest.raises(UserError) as refused:
        choose_people(KEYS, asked, "training images", [*KEYS, ("toy", "test", 4)])
    assert told in str(refused.value)


def test_a_description_is_the_first_that_an_image_has(tmp_path: Path) -> None:
    columns = {
        "file_name": [f"{number}.png" for number in range(5)], "source": "toy", "partition": "train",
        "pid": [3, 1, 1, 1, 3], "camid": 1, "split": "train", "role": "identity",
    }  # fmt: skip
    rows = Manifest.from_columns(tmp_path, columns)
    assert describe_people(rows) == ["", ""]
    assert describe_people(rows.with_columns({"description": [None, None, "a", "b", ""]})) == ["a", ""]
