"""Each rule against tables made by hand, and what holds of every rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.copy_search import LENGTH
from diffreid_lightning.filtering.rules import (
    FixedThreshold,
    IdentityAgreement,
    IdentityQuantile,
    NearDuplicates,
    SelectionRule,
    ThresholdWithFloorAndCap,
    select_rows,
)
from diffreid_lightning.filtering.statistics import summarize
from tests.unit.filtering.rules.conftest import MakeSelection

PEOPLE = [1, 1, 1, 1, 2, 2, 2, 3]
CONFIDENCES = [0.9, 0.2, 0.6, 0.5, 0.4, 0.3, 0.1, 0.8]

TABLES: list[tuple[SelectionRule, list[int]]] = [
    (FixedThreshold(0.5), [0, 2, 3, 7]),
    (FixedThreshold(0.0), [0, 1, 2, 3, 4, 5, 6, 7]),
    (IdentityQuantile(0.5), [0, 2, 4, 5, 7]),  # thresholds 0.55, 0.3, 0.8
    (IdentityQuantile(0.0), [0, 1, 2, 3, 4, 5, 6, 7]),
    (IdentityQuantile(0.9), [0, 4, 7]),
    (ThresholdWithFloorAndCap(0.5), [0, 2, 3, 7]),
    (ThresholdWithFloorAndCap(0.5, floor=1), [0, 2, 3, 4, 7]),
    (ThresholdWithFloorAndCap(0.5, floor=2), [0, 2, 3, 4, 5, 7]),
    (ThresholdWithFloorAndCap(0.5, cap=2), [0, 2, 7]),
    (ThresholdWithFloorAndCap(0.5, floor=1, cap=1), [0, 4, 7]),
    (ThresholdWithFloorAndCap(0.0, cap=3), [0, 2, 3, 4, 5, 6, 7]),
]


@pytest.mark.parametrize(("rule", "expected"), TABLES, ids=lambda value: str(value) if value else "none")
def test_rules_on_a_table(scored: MakeSelection, rule: SelectionRule, expected: list[int]) -> None:
    selection = scored(PEOPLE, CONFIDENCES)
    select_rows(selection, [rule])
    assert np.flatnonzero(selection.kept).tolist() == expected


def test_reasons_say_which_rule_and_why(scored: MakeSelection) -> None:
    selection = scored(PEOPLE, CONFIDENCES)
    select_rows(selection, [ThresholdWithFloorAndCap(0.5, floor=1, cap=1)])
    assert selection.reasons.to_pylist() == [
        "passed every rule",
        "confidence below 0.5",
        "its identity has 1 better images",
        "its identity has 1 better images",
        "below 0.5, kept as one of the best 1 of its identity",
        "confidence below 0.5",
        "confidence below 0.5",
        "passed every rule",
    ]
    assert sum(selection.count_reasons().values()) == len(PEOPLE)


def test_rules_follow_one_another(scored: MakeSelection) -> None:
    """The floor brings back nothing that an earlier rule dropped, and a quantile is one of what is left."""
    selection = scored(PEOPLE, CONFIDENCES)
    select_rows(selection, [FixedThreshold(0.35), IdentityQuantile(0.5), ThresholdWithFloorAndCap(0.85, floor=1)])
    assert np.flatnonzero(selection.kept).tolist() == [0, 4, 7]
    assert selection.reasons.to_pylist()[5] == "confidence below 0.35"


def test_any_score_can_be_cut(scored: MakeSelection) -> None:
    selection = scored([1, 1, 2], [0.9, 0.9, 0.9], similarity=[0.1, 0.6, 0.7], margin=[0.3, -0.1, 0.2])
    select_rows(selection, [FixedThreshold(0.5, "similarity"), FixedThreshold(0.0, "margin")])
    assert selection.reasons.to_pylist() == ["similarity below 0.5", "margin below 0", "passed every rule"]
    with pytest.raises(UserError, match="has no similarity"):
        select_rows(scored([1], [0.5]), [FixedThreshold(0.5, "similarity")])


def test_the_only_image_of_a_label_has_no_consistency_and_the_reason_says_so(scored: MakeSelection) -> None:
    alone = "no consistency: its label has no other scored image, or there is no other label"
    rules = (FixedThreshold, ThresholdWithFloorAndCap, IdentityQuantile)
    for rule in rules:
        selection = scored([1, 1, 2], [0.9, 0.1, 0.9], consistency=[0.2, 0.8, None])
        select_rows(selection, [FixedThreshold(0.0), rule(0.5, score="consistency")])
        assert selection.kept.tolist() == [False, True, False] and selection.reasons.to_pylist()[2] == alone
    selection = scored([1, 1, 2], [0.9, 0.1, 0.9], consistency=[0.2, 0.8, None])
    select_rows(selection, [FixedThreshold(0.5)])
    assert selection.kept.tolist() == [True, False, True], "rules that do not need it keep the image"


def test_the_best_of_each_identity_by_consistency(scored: MakeSelection) -> None:
    selection = scored([1, 1, 1, 2, 2], [0.9, 0.8, 0.1, 0.5, 0.5], consistency=[0.1, 0.3, 0.2, 0.0, 0.9])
    select_rows(selection, [ThresholdWithFloorAndCap(-2, cap=2, score="consistency")])
    assert selection.kept.tolist() == [False, True, True, True, True]


#: people, the labels nearest to their images, and the people that a share of one half drops
AGREEMENTS: list[tuple[list[int], list[int | None], list[int]]] = [
    ([1, 1, 2, 2], [1, 1, 2, 2], []),
    ([1, 1, 2, 2], [2, 1, 2, 2], []),
    ([1, 1, 1, 2, 2], [2, 1, 2, 2, 2], [1]),
    ([1, 1, 1, 2, 2, 3, 3], [2, 1, 3, 2, 2, 3, 3], [1]),
    ([1, 1, 2, 2], [None, 1, None, None], []),
    ([1, 1, 2, 2], [2, None, 2, 2], [1]),
    ([1, 1, 1, 1, 2, 2], [7, 7, 7, 1, 2, 2], [1]),
]


@pytest.mark.parametrize(("people", "nearest", "dropped"), AGREEMENTS)
def test_identities_whose_images_disagree_go_as_a_whole(
    scored: MakeSelection, people: list[int], nearest: list[int | None], dropped: list[int]
) -> None:
    texts = [None if pid is None else f"market1501-{pid:04d}" for pid in nearest]
    selection = scored(people, [0.9] * len(people), nearest_label=texts)
    select_rows(selection, [IdentityAgreement(0.5)])
    assert selection.kept.tolist() == [pid not in dropped for pid in people]
    assert [selection.identities[label][2] for label in selection.regenerate] == dropped


@pytest.mark.parametrize(("share", "agree"), [(0.55, 55), (0.07, 7), (0.56, 56), (0.29, 29)])
def test_exactly_the_share_that_must_agree_is_enough(scored: MakeSelection, share: float, agree: int) -> None:
    """0.55 * 100 is more than 55."""
    for kept, count in ((True, agree), (False, agree - 1)):
        texts = [f"market1501-{1 if row < count else 1000 + row:04d}" for row in range(100)]
        selection = scored([1] * 100 + [2], [0.9] * 101, nearest_label=[*texts, None])
        IdentityAgreement(share).apply(selection)
        assert selection.kept.tolist() == [kept] * 100 + [True]


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_counted_as_by_hand(scored: MakeSelection, seed: int) -> None:
    rng = np.random.default_rng(seed)
    people, nearest = rng.integers(0, 6, 60), rng.integers(-1, 6, 60)
    texts = [None if pid < 0 else f"market1501-{pid:04d}" for pid in nearest]
    selection = scored(people.tolist(), [0.9] * 60, nearest_label=texts)
    share = float(rng.random())
    IdentityAgreement(share).apply(selection)
    for label, (_, _, pid) in enumerate(selection.identities):
        own = [taken for mine, taken in zip(people, nearest, strict=True) if mine == pid and taken >= 0]
        agree = own.count(pid)
        others = max((own.count(other) for other in range(6) if other != pid), default=0)
        gone = agree / max(1, len(own)) < share * bool(own) or others > agree
        assert (~selection.kept[people == pid]).all() == gone == (label in selection.regenerate)
        if gone:
            first = next(other for other in range(6) if other != pid and own.count(other) == others)
            words = f"{agree} of {len(own)} images agree, nearest to market1501-{first:04d}: {others}"
            assert selection.regenerate[label] == words


def test_variety_of_kept_images_is_compared_with_that_of_all(scored: MakeSelection) -> None:
    selection = scored([1, 1, 1, 2, 2, 3], [0.9, 0.9, 0.1, 0.9, 0.1, None])
    select_rows(selection, [FixedThreshold(0.5)])
    features = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 0]])
    found = summarize(selection, features).variety
    assert found is not None and found.identities == 1, "person 2 keeps one image"
    assert found.kept == pytest.approx(0) and found.scored == pytest.approx(2 / 3)
    select_rows(selection, [ThresholdWithFloorAndCap(-2, cap=1)])
    assert summarize(selection, features).variety is None


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_numpys(scored: MakeSelection, seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = rng.integers(1, 9, size=80)
    scores = rng.random(80)
    q = float(rng.random() * 0.99)
    selection = scored(people.tolist(), scores.tolist())
    select_rows(selection, [IdentityQuantile(q)])
    expected = [scores[i] >= np.quantile(scores[people == people[i]], q) for i in range(80)]
    assert selection.kept.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_floor_and_cap_hold_for_everybody(scored: MakeSelection, seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = rng.integers(1, 9, size=80)
    scores = rng.integers(10, size=80) / 10  # many equal ones
    floor = int(rng.integers(0, 4))
    cap = floor + int(rng.integers(1, 4))
    selection = scored(people.tolist(), scores.tolist())
    select_rows(selection, [ThresholdWithFloorAndCap(0.55, floor, cap)])
    for person in np.unique(people):
        own = people == person
        passing = int((scores[own] >= 0.55).sum())
        assert selection.kept[own].sum() == min(cap, max(passing, min(floor, own.sum())))
        if (~selection.kept[own]).any() and selection.kept[own].any():
            assert scores[own & selection.kept].min() >= scores[own & ~selection.kept].max()


def grey(*levels: int) -> np.ndarray:
    return np.repeat(np.asarray(levels, np.uint8)[:, None], LENGTH, axis=1)


def test_copies_of_real_and_of_better_generated_images_go(scored: MakeSelection) -> None:
    thumbs = grey(100, 101, 140, 100, 200, 100)
    distances = [0.2, 0.2, 0.2, 0.2, 0.01, None]
    selection = scored([1, 1, 1, 2, 1, 1], [0.5, 0.9, 0.8, 0.9, 0.9, 0.4], thumbs, real_distance=distances)
    select_rows(selection, [NearDuplicates(real=0.02, generated=0.05)])
    worse = "nearer than 0.05 to a better generated image"
    assert selection.reasons.to_pylist() == [
        worse,
        "passed every rule",
        "passed every rule",
        "passed every rule",
        "nearer than 0.02 to a real image",
        worse,
    ], "another person's image is no copy, and a better one is kept"


def test_each_half_of_the_search_for_copies_can_be_left_out(scored: MakeSelection) -> None:
    arguments: dict[str, Any] = {"thumbnails": grey(100, 100), "real_distance": [0.0, 0.5]}
    selection = scored([1, 1], [0.5, 0.9], **arguments)
    select_rows(selection, [NearDuplicates(real=None, generated=0.05)])
    assert selection.kept.tolist() == [False, True]
    selection = scored([1, 1], [0.5, 0.9], **arguments)
    select_rows(selection, [NearDuplicates(real=0.05, generated=None)])
    assert selection.kept.tolist() == [False, True]
    with pytest.raises(UserError, match="no distances to real images"):
        select_rows(scored([1], [0.5]), [NearDuplicates()])


def test_rows_without_a_score_are_out_with_their_reason(scored: MakeSelection) -> None:
    problems = ["unreadable image: 0 bytes", None, None, None]
    selection = scored([1, 1, 2, 2], [None, None, 0.9, 0.1], score_problem=problems)
    select_rows(selection, [ThresholdWithFloorAndCap(0.5, floor=5)])
    assert selection.reasons.to_pylist() == [
        "unreadable image: 0 bytes",
        "no score",
        "passed every rule",
        "below 0.5, kept as one of the best 5 of its identity",
    ]
    report = summarize(selection)
    assert [key for key, _ in report.lost] == [("market1501", "train", 1)], "nobody is lost without being named"


def test_real_rows_are_not_chosen(scored: MakeSelection) -> None:
    selection = scored([1, 1], [0.9, 0.9], split=["generated", "train"])
    select_rows(selection, [])
    assert selection.reasons.to_pylist() == ["passed every rule", "not a generated image"]


def test_nothing_left_is_an_error_that_counts(scored: MakeSelection) -> None:
    with pytest.raises(UserError, match="No image passes") as error:
        select_rows(scored([1, 1, 2], [0.1, 0.3, None]), [FixedThreshold(0.2), FixedThreshold(0.5)])
    text = str(error.value)
    assert "1 without a score; 1 of 2 by FixedThreshold; 1 of 1 by FixedThreshold" in text
    assert "the best have confidence 0.300" in text and "confidence below 0.5 (1)" in text
    with pytest.raises(UserError, match="0 of 0 by IdentityQuantile"):
        select_rows(scored([1, 1], [0.1, 0.3]), [FixedThreshold(0.5), IdentityQuantile(0.5)])


def test_two_sources_with_the_same_numbers_are_two_people(scored: MakeSelection) -> None:
    selection = scored([1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6], source=["market1501", "market1501", "duke", "duke"])
    select_rows(selection, [ThresholdWithFloorAndCap(0.0, cap=1)])
    assert selection.kept.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        (IdentityQuantile, {"quantile": 1.0}),
        (IdentityAgreement, {"share": 1.5}),
        (ThresholdWithFloorAndCap, {"floor": 3, "cap": 2}),
        (ThresholdWithFloorAndCap, {"floor": -1}),
        (ThresholdWithFloorAndCap, {"cap": 0}),
        (NearDuplicates, {"real": 2.0}),
    ],
)
def test_impossible_settings_are_refused(rule: type[SelectionRule], arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        rule(**arguments)


def test_the_report_counts_before_and_after(scored: MakeSelection, tmp_path: Path) -> None:
    attributes = ['{"view": "back", "light": "night"}', '{"view": "front"}', "not json", '{"view": "back"}']
    selection = scored([1, 1, 2, 3], [0.9, 0.1, 0.2, 0.8], attributes=attributes)
    select_rows(selection, [FixedThreshold(0.5)])
    report = summarize(selection)
    assert (report.images, report.kept, report.kept_share) == (4, 2, 0.5)
    assert report.before.spread == "1 / 1 / 2" and report.after.spread == "1 / 1 / 1"
    assert list(report.lost) == [(("market1501", "train", 2), "confidence below 0.5")]
    assert report.coverage == {("light", "night"): (1, 1), ("view", "back"): (2, 2), ("view", "front"): (1, 0)}
    assert report.count_values() == {"light": (1, 1), "view": (2, 1)}
