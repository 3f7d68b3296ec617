"""Rows whose records tell of the target's labels are marked, whatever the grid declares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.benchmark.comparison import compare
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.job_records import Record, Workplace
from diffreid_lightning.benchmark.jobs import FIRST_RUN, Job, choose
from diffreid_lightning.benchmark.outcomes import read_outcomes, undeclared
from diffreid_lightning.benchmark.table_forms import markdown
from diffreid_lightning.run_summary import RunSummary
from tests.fixtures.dataset_layouts import write_dukemtmcreid, write_market1501
from tests.unit.benchmark.conftest import MakeGrid


class Finished:
    """A grid of which single cells are finished, with records of the test's choice."""

    def __init__(self, grid: Grid, paths: dict[str, str]) -> None:
        self.grid = grid
        self.jobs: dict[str, Job] = expand(grid)
        self.place = Workplace(grid.root, paths)

    def end(self, name: str, train: list[str], before: list[str], target: str, **counts: int) -> None:
        """Finish a cell that was trained on sources, after an initialization of others, and tested on a target."""
        for job in choose(self.jobs, name).values():
            if self.place.state(job, self.jobs) != "done":
                self.place.end(job, self.place.begin(job, self.jobs), 0, 1.0)
        folder = self.place.folder(job) / (FIRST_RUN if job.words[0] == "fit" else "test-001")
        folder.mkdir(parents=True)
        data: dict[str, Any] = {"train": {"manifests": [{"sources": train}]}, "test": {"source": target}}
        start = {"init_from": "x", "sources": before, "steps": 5, **counts}
        numbers = {"test": {"mAP": 1.0, "Rank-1": 2.0}}
        RunSummary(job.words[0], "id", 1, "0", data=data, initialization=start, metrics=numbers).write(folder)

    def marked(self) -> dict[str, bool]:
        """Whether each finished cell is in a marked row, by name."""
        outcomes = read_outcomes(self.grid, self.jobs, self.place)
        cells = [job for job in self.jobs.values() if job.cell is not None]
        return {job.name: each.cell.sees_target for job, each in zip(cells, outcomes, strict=True) if each.values}


@pytest.fixture
def finished(make_grid: MakeGrid, tmp_path: Path) -> Finished:
    market, duke = write_market1501(tmp_path / "m", cameras=(1, 2)), write_dukemtmcreid(tmp_path / "d", cameras=(1, 2))
    return Finished(make_grid(), {"market": str(market), "duke": str(duke)})


def test_numbers_are_those_of_the_split_that_is_evaluated(make_grid: MakeGrid, tmp_path: Path) -> None:
    for split, found in (("test", 1.0), ("val", None)):
        grid = make_grid({"evaluate": split, "settings": {"direct": None}, "root": str(tmp_path / split)})
        grid = replace(grid, root=tmp_path / split)
        world = Finished(grid, {"market": "/m", "duke": "/d"})
        world.end("scratch/supervised/market/seed-0", [], [], "market1501")
        outcome = read_outcomes(grid, world.jobs, world.place)[0]
        assert outcome.values.get("mAP") == found, "query and gallery tell nothing of val"
        assert outcome.state == ("done" if found else "failed")
        assert ("--test_with=none" in world.jobs["scratch/supervised/market/seed-0"].words) is (split == "val")


def test_tables_tell_what_an_initialization_was_trained_on(finished: Finished) -> None:
    name = "diff-person/supervised/market/seed-0"
    finished.end(name, ["market1501"], ["market1501"], "market1501", images=765, identities=160)
    outcomes = read_outcomes(finished.grid, finished.jobs, finished.place)
    assert {(each.images, each.identities) for each in outcomes if each.values} == {(765, 160)}
    comparison = compare(finished.grid, outcomes)
    assert "| Diff-Person | 765 of 160 |" in markdown(finished.grid, comparison)


@pytest.mark.parametrize(
    ("name", "train", "before", "expected"),
    [
        ("scratch/usl/market/seed-0", ["market1501"], ["dukemtmcreid"], False),  # its own images, without labels
        ("scratch/usl/market/seed-0", ["market1501"], ["market1501"], True),
        ("scratch/uda/duke-to-market/seed-0", ["market1501"], ["dukemtmcreid", "world"], False),
        ("scratch/uda/duke-to-market/seed-0", ["market1501"], ["market1501", "dukemtmcreid"], True),
        ("scratch/direct/duke-to-market/seed-0", ["dukemtmcreid"], [], False),
        ("scratch/direct/duke-to-market/seed-0", ["dukemtmcreid"], ["market1501"], True),
        ("scratch/direct/duke-to-market/seed-0", ["dukemtmcreid", "market1501"], [], True),
        ("scratch/supervised/market/seed-0", ["market1501"], ["market1501"], False),  # which may see them
    ],
)
def test_records_are_believed(
    finished: Finished, name: str, train: list[str], before: list[str], expected: bool
) -> None:
    finished.end(name, train, before, "market1501")
    assert finished.marked() == {name: expected}
    outcomes = read_outcomes(finished.grid, finished.jobs, finished.place)
    assert undeclared(finished.jobs, outcomes) == (["scratch"] if expected else [])


def test_what_took_part_in_a_preparation_counts(finished: Finished) -> None:
    name = "diff-person/uda/market-to-duke/seed-0"
    finished.end("diff-person/supervised/market/seed-0", ["market1501"], [], "market1501")
    finished.end(name, ["dukemtmcreid"], ["market1501"], "dukemtmcreid")
    assert not finished.marked()[name]
    generated = finished.place.folder(finished.jobs["made/generated/market"])
    record = Record.read(generated)
    assert record is not None
    replace(record, sources=("market1501", "dukemtmcreid")).write(generated)  # a scorer of the target's people, say
    assert finished.marked()[name]


def test_what_is_declared_needs_no_record(finished: Finished) -> None:
    name = "ready-weights/direct/market-to-duke/seed-0"
    finished.end(name, ["market1501"], [], "dukemtmcreid")
    assert finished.marked() == {name: True}
    assert not undeclared(finished.jobs, read_outcomes(finished.grid, finished.jobs, finished.place))


def test_an_equal_name_of_two_datasets_tells_nothing(make_grid: MakeGrid, tmp_path: Path) -> None:
    one, other = (write_market1501(tmp_path / name, cameras=(1, 2)) for name in ("one", "other"))
    finished = Finished(make_grid(), {"market": str(one), "duke": str(other)})
    finished.end("scratch/direct/duke-to-market/seed-0", ["market1501"], [], "market1501")
    assert finished.marked() == {"scratch/direct/duke-to-market/seed-0": False}
