"""Equal counts, exchanged labels, and the grids that compare filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffreid_lightning.benchmark.comparison import Outcome
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.benchmark.jobs import Cell
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.rules import Selection
from diffreid_lightning.manifest.manifest import Manifest
from experiments.filtering.equal_count import EqualCount
from experiments.filtering.label_noise import LabelNoise, exchange_labels
from experiments.filtering.recovered import right_share
from experiments.six_settings.row_differences import differences
from tests.fixtures.dataset_layouts import write_market1501

FILTERING = Path(__file__).parents[3] / "experiments" / "filtering"
GENERATED = {"source_pid": 1, "prompt": "a person", "attributes": "{}", "seed": 0, "generator": "f" * 64}


def test_everybody_keeps_equally_many_in_the_order_asked_for(tmp_path: Path) -> None:
    confidence = [0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.3]
    rows = Manifest.from_columns(
        tmp_path,
        {
            "file_name": [f"{number}.png" for number in range(7)], "source": "toy", "partition": "train",
            "pid": [1, 1, 1, 1, 2, 2, 2], "camid": 1, "split": "generated", "role": "identity",
            "confidence": confidence, **GENERATED,
        },
    )  # fmt: skip

    def kept(order: str, seed: int = 0) -> set[float]:
        selection = Selection(rows, lambda: np.empty((0, 0), np.uint8))
        EqualCount(2, order, seed=seed).apply(selection)  # type: ignore[arg-type]
        assert np.bincount(rows.numpy("pid")[selection.kept]).tolist() == [0, 2, 2]
        return {confidence[row] for row in np.flatnonzero(selection.kept)}

    assert kept("best") == {0.9, 0.7, 0.8, 0.3}
    assert kept("worst") == {0.1, 0.5, 0.2, 0.3}
    assert kept("random") == kept("random")
    assert len({frozenset(kept("random", seed)) for seed in range(20)}) > 3
    with pytest.raises(UserError, match="1 or more"):
        EqualCount(0)


def test_filters_choose_among_the_same_images_on_held_out_people(tmp_path: Path) -> None:
    grid = read_grid(["benchmark/miniperson", str(FILTERING / "selections.yaml")], str(tmp_path))
    jobs = expand(grid)
    cells = [job for job in jobs.values() if job.cell is not None]
    assert {job.cell.split for job in cells if job.cell} == {"val"}
    assert all("--data.val_share=null" in job.words and "--test_with=none" in job.words for job in cells)
    chains = [name for name, job in jobs.items() if job.words[0] == "pipeline"]
    assert len(chains) == 2 + 2 * 2 * len(grid.seeds), "one for each dataset and subset, whatever the filter"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_exchanged_labels_are_wrong_and_as_many_as_asked_for(share: float) -> None:
    pids = np.repeat(np.arange(10, 30), 5)
    images = exchange_labels(pids, share, "images", 3)
    assert (images != pids).sum() == round(share * 100) and set(images) <= set(pids)
    people = exchange_labels(pids, share, "people", 3)
    wrong = people != pids
    assert wrong.sum() == 5 * round(share * 20), "whole people"
    assert all(len(set(people[pids == pid])) == 1 for pid in set(pids)), "whose images still share a label"
    assert sorted(people) == sorted(pids), "a name is passed on, none is used twice"
    assert np.array_equal(images, exchange_labels(pids, share, "images", 3))


def test_noise_leaves_out_everybody_but_train(tmp_path: Path) -> None:
    market = write_market1501(tmp_path / "market")
    right = open_dataset(str(market)).manifest()
    right = right.filter(right.numpy("split") == "train")
    noisy = LabelNoise(str(market), 1.0)
    found = open_dataset(noisy).manifest()
    assert found.table["file_name"].equals(right.table["file_name"])
    assert not (found.numpy("pid") == right.numpy("pid")).any() and right_share(found, right).share == 0
    half = open_dataset(LabelNoise(str(market), 0.5)).manifest()
    assert (right_share(half, right).right, right_share(right, right).share) == (len(right) // 2, 1)
    assert set(half.table["split"].to_pylist()) == {"generated"}, "so that they are scored, selected and weighted"
    assert noisy.config()["init_args"]["share"] == 1.0
    with pytest.raises(UserError, match="images or people"):
        LabelNoise(str(market), 0.5, "cameras")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"LabelNoise.share"):
        LabelNoise(str(market), 1.5)


def test_a_filter_reads_the_noisy_images_as_the_row_without_it(tmp_path: Path) -> None:
    grid = read_grid(["benchmark/miniperson", str(FILTERING / "label_noise.yaml")], str(tmp_path))
    jobs = expand(grid)
    noise = {word for name, job in jobs.items() if "half-of-the-images" in name for word in job.words if "0.5" in word}
    scored = {word for name, job in jobs.items() if "made/scored" in name for word in job.words if "0.5" in word}
    assert noise == scored
    validated = [job for job in jobs.values() if job.words[0] == "validate"]
    assert validated and all("--data.val_share=null" in job.words for job in validated)


def test_joint_training_has_real_and_generated_images_in_every_row_but_one(tmp_path: Path) -> None:
    jobs = expand(read_grid(["benchmark/miniperson", str(FILTERING / "joint_training.yaml")], str(tmp_path)))
    lists = {
        job.cell.initialization: sum("kept/diff_person" in word or "select/diff_person" in word for word in job.words)
        for job in jobs.values()
        if job.cell is not None
    }
    assert lists.pop("real images alone") == 0 and set(lists.values()) == {1}


def test_rows_are_compared_on_the_seeds_and_columns_that_both_have(tmp_path: Path) -> None:
    grid = read_grid(["benchmark/miniperson"], str(tmp_path))

    def outcome(row: str, dataset: str, seed: int, precisions: list[float]) -> Outcome:
        people = {str(number): np.array([value]) for number, value in enumerate(precisions)}
        cell = Cell(row, "as it is", dataset, None, seed)
        return Outcome(cell, "done", {"mAP": float(np.mean(precisions))}, people=people)

    outcomes = [
        outcome("Diff-Person", "campus", 0, [50.0, 80.0, 80.0]),
        outcome("Diff-Person", "campus", 1, [0.0, 0.0, 0.0]),
        outcome("Diff-Person", "station", 0, [10.0, 10.0, 10.0]),
        outcome("scratch", "campus", 0, [50.0, 70.0, 60.0]),
    ]
    lines = list(differences(grid, outcomes, "Diff-Person", "scratch"))
    assert lines == [["as it is", "campus", 1, "+10.0", "+0.0 to +20.0"]], "differences of people: 0, 10 and 20"
    assert not list(differences(grid, outcomes, "scratch", "real images, as long"))
