"""Compare initializations over seeds: means, paired differences to a row, and separate rows for those with leaks.

A difference is paired by seed, with the interval of Student's t at 95 % and once more over all comparisons of the table
together (Bonferroni), p values by Holm, and an interval over the tested people (bootstrap): ``paired_differences.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.job_records import State
from diffreid_lightning.benchmark.jobs import Cell
from diffreid_lightning.benchmark.paired_differences import (
    Floats,
    Interval,
    holm,
    interval,
    interval_over_people,
    paired_p_value,
    paired_values,
    simultaneous,
)

METRICS = ("mAP", "Rank-1")
CONFIDENCE = 0.95

Column = tuple[str, str]  #: setting and dataset


@dataclass(frozen=True)
class Outcome:
    """Result of a cell.

    Args:
        cell: its place; ``sees_target`` also where only the records of its initialization say so.
        state: how far it is.
        values: mAP and Rank-1 in percent by name; empty unless it is done.
        steps: optimizer steps behind the weights, pre-training included.
        selection: which weights were tested.
        uses_cameras: whether training read camera labels.
        reranked: whether its values are of re-ranked distances.
        seconds: of its command.
        images: that the initialization was trained on last; 0 where none are recorded.
        identities: of these images.
        people: average precision of each query in percent, by person; empty where it is not recorded.
    """

    cell: Cell
    state: State
    values: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    selection: str | None = None
    uses_cameras: bool = False
    reranked: bool = False
    seconds: float = 0.0
    images: int = 0
    identities: int = 0
    people: Mapping[str, Floats] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Row:
    """Row of the table.

    Args:
        label: of the initialization.
        sees_target: its weights were made with labels that the settings of its columns keep from it.
    """

    label: str
    sees_target: bool = False

    @property
    def title(self) -> str:
        """Return the label with its mark."""
        return f"{self.label} †" if self.sees_target else self.label


@dataclass(frozen=True)
class Difference:
    """Paired difference to the row that is compared with.

    Args:
        alone: mean with its 95 % interval.
        together: the same, so much wider that all intervals of the metric in the table hold together with 95 %.
        p: of the paired t-test; None for a single pair.
        p_holm: adjusted for all tests of the metric in the table.
        people: ends of the 95 % interval over the tested people, for these trained networks; None if that is unknown.
    """

    alone: Interval
    together: Interval
    p: float | None
    p_holm: float | None
    people: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """A row's cells in a column.

    Args:
        outcomes: one for each seed.
        differences: by metric; those of the row that is compared with have none.
    """

    outcomes: tuple[Outcome, ...]
    differences: Mapping[str, Difference] = field(default_factory=dict)

    def values(self, metric: str) -> dict[int, float]:
        """Return the results by seed."""
        return {each.cell.seed: each.values[metric] for each in self.outcomes if metric in each.values}

    @property
    def people(self) -> dict[int, Mapping[str, Floats]]:
        """Return the average precisions by seed and person."""
        return {each.cell.seed: each.people for each in self.outcomes if each.people}

    @property
    def is_reranked(self) -> bool:
        """Return true if its results are of re-ranked distances."""
        return any(each.reranked for each in self.outcomes)

    def mean(self, metric: str) -> float | None:
        """Return the mean over seeds, None without any."""
        values = list(self.values(metric).values())
        return float(np.mean(values)) if values else None

    def deviation(self, metric: str) -> float | None:
        """Return the standard deviation over seeds, None for fewer than two."""
        values = list(self.values(metric).values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def count(self, *states: State) -> int:
        """Count the seeds in some states."""
        return sum(each.state in states for each in self.outcomes)


@dataclass(frozen=True)
class Comparison:
    """The whole table.

    Args:
        rows: in order.
        columns: in order.
        entries: by row and column.
        references: the row that each row is compared with; a row that is compared with none is not in it.
        comparisons: differences with an interval, for each metric.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    entries: Mapping[tuple[Row, Column], Entry]
    references: Mapping[Row, Row]
    comparisons: int

    def row_entries(self, row: Row) -> dict[Column, Entry]:
        """Return a row's entries by column, in the order of the columns."""
        return {column: self.entries[row, column] for column in self.columns if (row, column) in self.entries}


def compare(grid: Grid, outcomes: Iterable[Outcome], against: str | None = None) -> Comparison:
    """Arrange outcomes in rows and columns, and compare each row with the one that the grid names for it.

    Cells whose initialization saw the labels of their target have rows of their own. They are compared with the named
    row as it is in their columns: with its cells that saw the labels too, where it has no others.
    """
    grouped: dict[tuple[Row, Column], list[Outcome]] = {}
    for outcome in outcomes:
        row = Row(outcome.cell.initialization, outcome.cell.sees_target)
        grouped.setdefault((row, outcome.cell.column), []).append(outcome)
    found = {row for row, _ in grouped}
    order = [Row(label, sees) for label in grid.initializations for sees in (False, True)]
    rows = tuple(row for row in order if row in found)
    columns = tuple(dict.fromkeys(column for _, column in grouped))
    entries = {place: Entry(tuple(each)) for place, each in grouped.items()}
    references = {
        row: other
        for row in rows
        if (other := _reference(row, against or grid.initializations[row.label].against or grid.against, entries))
        is not None
    }
    differences = _differences(entries, references)
    entries = {place: Entry(entry.outcomes, differences.get(place, {})) for place, entry in entries.items()}
    comparisons = sum(each[METRICS[0]].together.half is not None for each in differences.values())
    return Comparison(rows, columns, entries, references, comparisons)


def _reference(row: Row, label: str, entries: Mapping[tuple[Row, Column], Entry]) -> Row | None:
    """Return the row of a label that has a cell in one of a row's columns: the one without leaks, if there are two."""
    columns = [column for other, column in entries if other == row]
    for other in dict.fromkeys((Row(label), Row(label, row.sees_target))):
        if other != row and any((other, column) in entries for column in columns):
            return other
    return None


def _differences(
    entries: Mapping[tuple[Row, Column], Entry], references: Mapping[Row, Row]
) -> dict[tuple[Row, Column], dict[str, Difference]]:
    found: dict[tuple[Row, Column], dict[str, Difference]] = {}
    for metric in METRICS:
        pairs = {}
        for (row, column), entry in entries.items():
            other = entries.get((references[row], column)) if row in references else None
            if other is not None:
                pairs[row, column] = paired_values(entry.values(metric), other.values(metric))
        for place, difference in differences_of(pairs).items():
            found.setdefault(place, {})[metric] = difference
    for (row, column), by_metric in found.items():  # queries have an average precision; a rank has no such share
        own, rivals = entries[row, column].people, entries[references[row], column].people
        if len(own.keys() & rivals.keys()) == by_metric[METRICS[0]].alone.count:  # else it would be of other seeds
            people = interval_over_people(own, rivals, CONFIDENCE)
            by_metric[METRICS[0]] = replace(by_metric[METRICS[0]], people=people)
    return found


def differences_of(pairs: Mapping[tuple[Row, Column], Sequence[float]]) -> dict[tuple[Row, Column], Difference]:
    """Estimate several mean differences, alone and together.

    Args:
        pairs: differences of each comparison, one per seed; those without any are left out.
    """
    pairs = {place: values for place, values in pairs.items() if values}
    tests = {place: p for place, values in pairs.items() if (p := paired_p_value(values)) is not None}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    confidence = simultaneous(CONFIDENCE, max(1, len(tests)))
    return {
        place: Difference(
            interval(values, CONFIDENCE), interval(values, confidence), tests.get(place), adjusted.get(place)
        )
        for place, values in pairs.items()
    }
