"""The parser of classes: which type a number is read as."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import pytest

from diffreid_lightning.cli.lightning_parser import LayeredParser


@pytest.mark.parametrize("kinds", [(float, int), (int, float), (float, int, None), (str, float, int)])
def test_a_whole_number_is_read_as_one_whatever_was_imported_before(kinds: tuple[Any, ...]) -> None:
    class Limited:
        def __init__(self, batches: Any = 1.0) -> None: ...

    Limited.__init__.__annotations__["batches"] = reduce(operator.or_, kinds)
    parser = LayeredParser()
    parser.add_class_arguments(Limited, "limited")
    one = parser.parse_args(["--limited.batches=1"]).limited.batches
    share = parser.parse_args(["--limited.batches=0.5"]).limited.batches
    expected = (str, str) if kinds[0] is str else (int, float)
    assert (type(one), type(share)) == expected


def test_other_unions_stay_as_they_are() -> None:
    class Other:
        def __init__(self, first: Any, second: Any) -> None: ...

    hints = {"first": reduce(operator.or_, [int, float, str]), "second": reduce(operator.or_, [float, str])}
    Other.__init__.__annotations__.update(hints)
    LayeredParser().add_class_arguments(Other, "other")
    assert {name: Other.__init__.__annotations__[name] for name in hints} == hints
