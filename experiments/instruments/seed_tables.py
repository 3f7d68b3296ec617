"""Tables whose rows were measured under several seeds: means, and paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffreid_lightning.benchmark.paired_differences import Interval, interval, paired_values
from experiments.instruments.report import table

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What was measured, by row, seed and name."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        head: what stands above it.
        name: of the measured value, which may be None.
        factor: what it is multiplied with.
        digits: behind the point.
    """

    head: str
    name: str
    factor: float = 1.0
    digits: int = 1


QUALITY = (
    Column("recognized, %", "recognized", 100),
    Column("near-copies, %", "copies", 100),
    Column("KID × 1000", "kid", 1000),
    Column("as asked, %", "agreement", 100),
    Column("people with four recognized", "varied", digits=0),
    Column("views, bits", "views", digits=2),
    Column("scenes, bits", "scenes", digits=2),
    Column("Vendi", "vendi", digits=2),
    Column("images/s", "images_per_second"),
)
DRIFT = (
    Column("nobody: moved × 1000", "drift_moved", 1000),
    Column("nobody: KID to the base's × 1000", "drift_kid_base", 1000),
    Column("nobody: KID × 1000", "drift_kid", 1000),
    Column("nobody as asked, %", "drift_agreement", 100),
)


def values_of(seeds: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return the values measured under a name, by seed, without missing ones."""
    return {seed: float(found[name]) for seed, found in seeds.items() if found.get(name) is not None}


def means_table(title: str, results: Results, columns: Iterable[Column]) -> str:
    """A row for each row of the results: means over its seeds, "-" where nothing was measured."""
    columns = tuple(columns)
    rows = []
    for label, seeds in results.items():
        cells = [_mean(values_of(seeds, column.name), column) for column in columns]
        rows.append([label, len(seeds), *cells])
    return table(title, ["", "seeds", *(column.head for column in columns)], rows)


def differences_table(title: str, results: Results, reference: str, columns: Iterable[Column]) -> str:
    """Paired differences to one row, over the seeds that both have, with 95 % intervals where there are several."""
    columns = tuple(columns)
    rows: list[Sequence[object]] = []
    for label, seeds in results.items():
        if label == reference:
            continue
        pairs = [_difference(seeds, results[reference], column) for column in columns]
        counts = sorted({pair.count for pair in pairs if pair}) or [0]
        seen = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        rows.append([label, seen, *map(_text, pairs, columns)])
    return table(title, ["", "pairs", *(column.head for column in columns)], rows)


def _mean(values: Mapping[int, float], column: Column) -> str:
    if not values:
        return "-"
    return f"{column.factor * interval(list(values.values())).mean:.{column.digits}f}"


def _difference(
    row: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]], column: Column
) -> Interval | None:
    pairs = paired_values(values_of(row, column.name), values_of(other, column.name))
    return interval([column.factor * value for value in pairs]) if pairs else None


def _text(found: Interval | None, column: Column) -> str:
    if found is None:
        return "-"
    half = "" if found.half is None else f" ± {found.half:.{column.digits}f}"
    return f"{found.mean:+.{column.digits}f}{half}"
