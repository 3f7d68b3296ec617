"""Summarize a selection: kept share, lost identities, images per identity, variety, attributes; as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.filtering.consistency import Features, mean_pair_distances
from diffreid_lightning.filtering.rules import Selection
from diffreid_lightning.filtering.scored_manifest import label_text

_REASONS = 12  # listed one by one
_LISTED = 20  # identities of a text


@dataclass(frozen=True)
class PerIdentity:
    """Number of images per identity, over identities with at least one.

    Args:
        identities: number of identities.
        fewest: minimum number of images.
        median: median number of images.
        most: maximum number of images.
    """

    identities: int
    fewest: int
    median: float
    most: int

    @classmethod
    def count(cls, labels: npt.NDArray[np.int64]) -> PerIdentity:
        """Count the labels, (N,)."""
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        if not len(counts):
            return cls(0, 0, 0.0, 0)
        return cls(len(counts), int(counts.min()), float(np.median(counts)), int(counts.max()))

    @property
    def spread(self) -> str:
        """Fewest, median and most, for a table."""
        return f"{self.fewest} / {self.median:g} / {self.most}"

    def __str__(self) -> str:
        return f"{self.identities:,} identities, {self.spread} images each"


@dataclass(frozen=True)
class Variety:
    """Mean cosine distance of two images of an identity, averaged over identities with two kept images or more.

    Args:
        kept: of two kept images, 0 to 2.
        scored: of two scored images of the same identities, and so of as many random ones on average.
        identities: number of these identities.
    """

    kept: float
    scored: float
    identities: int

    @classmethod
    def measure(cls, features: Features, labels: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> Variety | None:
        """Measure features (N, D) of labels (N,), -1 for rows without a score; None if no identity keeps two."""
        after = mean_pair_distances(features, np.where(kept, labels, -1))
        known = np.flatnonzero(~np.isnan(after))
        before = mean_pair_distances(features, np.where(np.isin(labels, known), labels, -1))
        return cls(float(after[known].mean()), float(before[known].mean()), len(known)) if len(known) else None

    def __str__(self) -> str:
        return (
            f"two kept images of an identity differ by {self.kept:.3f} (mean cosine distance, {self.identities:,} "
            f"identities), as many random ones by {self.scored:.3f}"
        )


@dataclass(frozen=True)
class SelectionReport:
    """Statistics of a selection.

    Args:
        images: number of generated rows, with or without a score.
        kept: number of kept rows.
        before: images per identity among the generated rows.
        after: images per identity among the kept rows.
        lost: identities without a kept image, with the most frequent reason of their images.
        reasons: rows by reason, real ones too.
        coverage: (attribute, value) with its generated images before and after.
        regenerate: identities whose images a rule wants generated again, with its words.
        variety: None if scoring wrote no features, or no identity keeps two images.
    """

    images: int
    kept: int
    before: PerIdentity
    after: PerIdentity
    lost: Sequence[tuple[IdentityKey, str]]
    reasons: Mapping[str, int]
    coverage: Mapping[tuple[str, str], tuple[int, int]]
    regenerate: Sequence[tuple[IdentityKey, str]] = ()
    variety: Variety | None = None

    @property
    def main_reasons(self) -> dict[str, int]:
        """Most frequent reasons, in order, and the sum of the others: each broken file may have its own."""
        most = sorted(self.reasons, key=lambda reason: -self.reasons[reason])[:_REASONS]
        shown = {reason: count for reason, count in self.reasons.items() if reason in most}
        others = len(self.reasons) - len(shown)
        rest = sum(self.reasons.values()) - sum(shown.values())
        return {**shown, f"{others} other reasons": rest} if others else shown

    @property
    def kept_share(self) -> float:
        """Share of the generated rows that are kept, 0 to 1."""
        return self.kept / self.images if self.images else 0.0

    def list_regenerate(self) -> list[str]:
        """List the first identities to generate again, a line each."""
        return _list_first([f"{label_text(key)}: {words}" for key, words in self.regenerate])

    def count_values(self) -> dict[str, tuple[int, int]]:
        """Count the values of each attribute that occur, before and after."""
        found: dict[str, tuple[int, int]] = {}
        for (attribute, _), (before, after) in self.coverage.items():
            many, left = found.get(attribute, (0, 0))
            found[attribute] = (many + (before > 0), left + (after > 0))
        return found


def summarize(selection: Selection, features: Features | None = None) -> SelectionReport:
    """Compute the statistics of a selection.

    Args:
        selection: after the rules.
        features: (N, D) features of its rows, to measure the variety; None for no measure.
    """
    kept, labels = selection.kept, selection.labels
    scored = np.where(selection.scored, labels, -1)
    lost = np.setdiff1d(labels[selection.generated], labels[kept])
    why = _main_reasons(selection, lost)
    return SelectionReport(
        images=int(selection.generated.sum()),
        kept=int(kept.sum()),
        before=PerIdentity.count(labels[selection.generated]),
        after=PerIdentity.count(labels[kept]),
        lost=[(selection.identities[label], why[label]) for label in lost.tolist()],
        reasons=selection.count_reasons(),
        coverage=attribute_coverage(selection),
        regenerate=[(selection.identities[label], words) for label, words in sorted(selection.regenerate.items())],
        variety=None if features is None else Variety.measure(features, scored, kept),
    )


def attribute_coverage(selection: Selection) -> dict[tuple[str, str], tuple[int, int]]:
    """Count the generated images of each attribute value, before and after the selection.

    Returns:
        Images by (attribute, value), before and after, sorted. A row without a JSON object has no attributes.
    """
    table = selection.manifest.table
    found: dict[tuple[str, str], tuple[int, int]] = {}
    if "attributes" not in table.column_names:
        return found
    coded = pc.dictionary_encode(table["attributes"]).combine_chunks()  # a few combinations, however many rows
    numbers = np.asarray(pc.fill_null(coded.indices, len(coded.dictionary)))
    size = len(coded.dictionary) + 1
    before, after = (np.bincount(numbers[rows], minlength=size) for rows in (selection.generated, selection.kept))
    for number, text in enumerate(coded.dictionary.to_pylist()):
        for pair in _attributes_of(text):
            one, other = found.get(pair, (0, 0))
            if before[number]:
                found[pair] = (one + int(before[number]), other + int(after[number]))
    return dict(sorted(found.items()))


def format_report(report: SelectionReport, rules: Sequence[str]) -> str:
    """Format a report as plain text."""
    lines = [
        f"kept {report.kept:,} of {report.images:,} images ({100 * report.kept_share:.1f} %)",
        f"before: {report.before} (fewest / median / most)",
        f"after:  {report.after}",
        f"identities lost: {len(report.lost):,}",
    ]
    lost = [f"{source} {partition} {pid}: {reason}" for (source, partition, pid), reason in report.lost]
    lines += [f"  {line}" for line in _list_first(lost)]
    if report.regenerate:
        lines.append(f"identities to generate again: {len(report.regenerate):,}")
        lines += [f"  {line}" for line in report.list_regenerate()]
    lines += [f"variety: {report.variety}"] if report.variety else []
    lines += ["", "rules, in order:", *(f"  {rule}" for rule in rules), "", "images by reason:"]
    lines += [f"  {count:>9,}  {reason}" for reason, count in report.main_reasons.items()]
    covered = report.count_values()
    if covered:
        lines += ["", "attribute values covered, before and after (images of each in coverage.csv):"]
        lines += [f"  {attribute}: {before} -> {after}" for attribute, (before, after) in covered.items()]
    return "\n".join(lines) + "\n"


def _list_first(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"and {rest:,} more, in identities.csv"] if rest > 0 else [])]


def write_tables(report: SelectionReport, selection: Selection, rules: Sequence[str], folder: Path) -> None:
    """Write ``summary.txt``, ``identities.csv`` and ``coverage.csv``."""
    (folder / "summary.txt").write_text(format_report(report, rules), encoding="utf-8")
    count = len(selection.identities)
    images = np.bincount(selection.labels[selection.generated], minlength=count)
    kept = np.bincount(selection.labels[selection.kept], minlength=count)
    lost = dict(report.lost)
    keys = enumerate(selection.identities)
    again = dict(report.regenerate)
    rows = ((*key, images[label], kept[label], lost.get(key, ""), again.get(key, "")) for label, key in keys)
    header = ("source", "partition", "pid", "images", "kept", "why_lost", "why_generate_again")
    _write_csv(folder / "identities.csv", header, rows)
    coverage = ((*pair, *counts) for pair, counts in report.coverage.items())
    _write_csv(folder / "coverage.csv", ("attribute", "value", "before", "after"), coverage)


def _attributes_of(text: str | None) -> list[tuple[str, str]]:
    try:
        read = json.loads(text or "{}")
    except ValueError:
        return []
    return [(str(name), str(value)) for name, value in read.items()] if isinstance(read, dict) else []


def _main_reasons(selection: Selection, lost: npt.NDArray[np.int64]) -> dict[int, str]:
    """Return the most frequent reason of each identity; of equally frequent ones the first alphabetically."""
    rows = np.isin(selection.labels, lost) & selection.generated
    table = pa.table({"label": selection.labels[rows], "reason": selection.reasons.filter(pa.array(rows))})
    counted = table.group_by(["label", "reason"]).aggregate([([], "count_all")])
    counted = counted.sort_by([("label", "ascending"), ("count_all", "ascending"), ("reason", "descending")])
    return dict(zip(counted["label"].to_pylist(), counted["reason"].to_pylist(), strict=True))


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
