"""Advice after a rehearsal, and its extrapolated costs, by hand-made records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.pipeline.fingerprints import Record, record_file
from diffreid_lightning.pipeline.graph import read_chain
from diffreid_lightning.pipeline.rehearsal import Rehearsal, Size
from diffreid_lightning.pipeline.rehearsal_advice import Found, suggest
from diffreid_lightning.pipeline.rehearsal_costs import StageCost, measure_disk, measure_stages
from diffreid_lightning.run_summary import RunSummary

GOOD = Found(recognized=0.7, consistent=0.9, kept=0.8, lost=0.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "personalize": {"data": {"init_args": {"batch_size": 20}}, "model": {"init_args": {}}},
    "generate": {
        "data": {"init_args": {"batch_size": "32"}},
        "model": {"init_args": {"diversity": {"class_path": "ComposedGuidance"}}},
    },
    "score": {"data": {"init_args": {"sampler": {"init_args": {"identities_per_batch": 16}}}}},
    "select": {"rules": [{"class_path": "ThresholdWithFloorAndCap", "init_args": {"threshold": 0.1}}]},
}


def cost(name: str, peak: float | None = None, epochs: int = 0) -> StageCost:
    return StageCost(name, 60.0, 100, "real", 0.5, 300.0, peak, None if peak is None else 16.0, epochs)


COSTS = [cost("personalize", epochs=10), cost("generate"), cost("score")]


def flags(found: Found, costs: list[StageCost] = COSTS, **changed: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each.stage, each.flags) for each in suggest(found, costs, {**SETTINGS, **changed}, 32)]


def test_good_shares_ask_for_nothing() -> None:
    assert flags(GOOD) == [] == flags(GOOD, [])


def test_people_who_are_not_recognized_want_more_training_or_less_diversity() -> None:
    low = GOOD._replace(recognized=0.2, consistent=0.4)
    longer = ("personalize", "--trainer.max_epochs 20")
    assert flags(low) == [longer, ("generate", "--model.diversity SDEdit --data.references true")]
    assert flags(low, generate={"model": {"init_args": {"diversity": "NoDiversity"}}}) == [longer]


def test_a_filter_that_drops_much_wants_the_best_of_each() -> None:
    """The share of the default floor, 6 of 8, for what the chain generates of each, whoever recognizes it."""
    for found in (GOOD._replace(kept=0.5), GOOD._replace(lost=0.2), GOOD._replace(recognized=0.2, kept=0.1, lost=0.5)):
        assert flags(found)[0] == ("select", "--rules.floor 24")
    assert "50% of the identities lose" in suggest(found, COSTS, SETTINGS, 8)[0].why

    def rule(**arguments: Any) -> dict[str, Any]:
        return {"rules": ["NearDuplicates", {"class_path": "ThresholdWithFloorAndCap", "init_args": arguments}]}

    few = GOOD._replace(kept=0.2)
    assert flags(few, select=rule(floor="6")) == [("select", "--rules.floor 24")]
    assert flags(few, select=rule(floor="${x}", cap="10")) == [("select", "--rules.floor 10")]
    assert flags(few, select=rule(floor="24")) == flags(few, select=rule(floor="4", cap=4)) == [
        ("select", "looser --rules")
    ]  # fmt: skip


def test_labels_that_agree_need_no_threshold() -> None:
    strangers = GOOD._replace(recognized=0.2)
    alone = {"rules": ["FixedThreshold"]}
    assert flags(strangers, select=alone)[0] == ("select", "--rules.threshold 0")
    assert "no filter was measurably better" in suggest(strangers, COSTS, {**SETTINGS, "select": alone}, 8)[0].why
    rule = {"class_path": "FixedThreshold", "init_args": {"threshold": "${x}", "score": "consistency"}}
    assert flags(strangers, select={"rules": [rule]})[0][0] == "personalize", "it asks for no more"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"class_path": "FixedThreshold", "init_args": {"threshold": 0.6}}, "--rules.threshold 0.3"),
        ({"class_path": "x.FixedThreshold"}, "--rules.threshold 0.25"),
        ({"class_path": "IdentityQuantile"}, "looser --rules"),
        ("FixedThreshold", "--rules.threshold 0.25"),
    ],
)
def test_a_strict_filter_is_loosened(rule: Any, expected: str) -> None:
    assert flags(GOOD._replace(kept=0.3), select={"rules": [rule]}) == [("select", expected)]


def test_memory_comes_first_and_no_more_than_three_are_given() -> None:
    full = [cost("personalize", 15.5, 10), cost("generate", 15.5), cost("score", 15.5)]
    saved = [
        ("personalize", "--model.gradient_checkpointing true"),
        ("generate", "--data.batch_size 16"),
        ("score", "--data.sampler.identities_per_batch 8"),
    ]
    assert flags(GOOD._replace(recognized=0.1), full) == saved
    assert flags(GOOD, [cost("personalize", 14.0)]) == [], "of 16 GiB"
    checkpointed = {**SETTINGS["personalize"], "model": {"init_args": {"gradient_checkpointing": "true"}}}
    assert flags(GOOD, full[:1], personalize=checkpointed) == [("personalize", "--data.batch_size 10")]


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    chain = read_chain(["chains/tour"], {"root": str(tmp_path)})
    return Rehearsal(chain, {}, Size(10, 100, 8), Size(50, 500, 32))


def leave(rehearsal: Rehearsal, stage: str, seconds: float, *attempts: tuple[int, float]) -> None:
    """Leave the record of a stage, and the summaries of its runs: the attempt and its seconds."""
    root = rehearsal.chain.root
    Record("key", "output", seconds).write(record_file(root, stage))
    for number, (attempt, own) in enumerate(attempts, 1):
        verb = next(each.words[0] for each in rehearsal.chain.stages if each.name == stage)
        run = root / stage / f"{verb}-{number:03d}"
        run.mkdir(parents=True)
        device = {"peak_memory_gib": 1.5, "memory_gib": None}
        RunSummary(verb, "id", attempt, "0" * 64, seconds={verb: own}, device=device, epochs=3).write(run)


def test_a_stage_grows_by_its_images_but_for_its_start(rehearsal: Rehearsal) -> None:
    leave(rehearsal, "personalize", 30.0, (1, 20.0))
    leave(rehearsal, "generate", 30.0, (1, 16.0))
    leave(rehearsal, "score", 30.0, (2, 5.0))
    leave(rehearsal, "score_generated", 40.0, (1, 5.0), (1, 5.0))
    leave(rehearsal, "select", 7.0)
    found = {each.name: each for each in measure_stages(rehearsal)}
    assert found["personalize"] == StageCost("personalize", 30.0, 100, "real", 0.2, 10 + 500 * 0.2, 1.5, None, 3)
    assert (found["generate"].images, found["generate"].per_image) == (80, 0.2)
    assert found["generate"].full_seconds == pytest.approx(14 + 1600 * 0.2)
    assert found["score"].full_seconds == pytest.approx(5 * 30), "it was interrupted: its start is not known"
    assert found["score_generated"].full_seconds == pytest.approx(20 * 40)
    assert (found["select"].per_image, found["select"].full_seconds) == (None, 7.0)
    (rehearsal.chain.root / "generate/predict-001/summary.json").write_text("{", encoding="utf-8")
    damaged = measure_stages(rehearsal)[1]
    assert damaged.peak_gib is None and damaged.full_seconds == pytest.approx(20 * 30)


def test_images_and_caches_grow_on_the_disk_and_a_second_name_costs_nothing(rehearsal: Rehearsal) -> None:
    root = rehearsal.chain.root
    sizes = {
        "generate/images/a.jpg": 1000, "score_generated/features.npy": 200, "cache/latents/a.bin": 100,
        "generate/contact_sheet.png": 50, "personalize/fit-001/last.ckpt": 40, "previous/001/generate/b.jpg": 9999,
    }  # fmt: skip
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    (root / "select/diff_person").mkdir(parents=True)
    os.link(root / "generate/images/a.jpg", root / "select/diff_person/a.jpg")
    found = measure_disk(rehearsal)
    assert found.used == 1390
    assert found.full == 1200 * 20 + 100 * 5 + 90
