"""Write results: shares with their intervals, Markdown tables, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffreid_lightning.storage.atomic import replace_file
from experiments.instruments.over_people import bootstrap


@dataclass(frozen=True)
class Share:
    """A measured share with its 95 % interval.

    Args:
        right: how many.
        count: of how many, at least 1.
        share: right / count.
        low: lower end of the interval.
        high: upper end.
    """

    right: int
    count: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def wilson(right: int, count: int, z: float = 1.959964) -> Share:
    """The score interval of a binomial share (Wilson, JASA 1927).

    Args:
        right: successes.
        count: trials, at least 1.
        z: normal quantile of the interval; 1.96 for 95 %.
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} of {count} is not a share")
    share = right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Share(right, count, share, max(0.0, center - half), min(1.0, center + half))


def share_of(hits: npt.NDArray[np.bool_], people: npt.NDArray[np.int64] | None = None) -> Share:
    """Measure the share of true values, with an interval over people if ``people`` says whom the images show.

    Args:
        hits: (N,) one value for each image.
        people: (N,) whom each image shows. Images of one person resemble each other: taken as independent, they give
            too narrow an interval. None: each image is a draw of its own.
    """
    right = int(hits.sum())
    if people is None:
        return wilson(right, len(hits))
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    if len(counts) == 1:  # nothing is known of other people
        return Share(right, len(hits), right / len(hits), 0.0, 1.0)
    if right in (0, len(hits)):  # people drawn anew would all have the same share
        bounds = wilson(len(counts) if right else 0, len(counts))
        return Share(right, len(hits), bounds.share, bounds.low, bounds.high)
    low, high = bootstrap(np.bincount(whose, weights=hits) / counts, counts)
    return Share(right, len(hits), right / len(hits), low, high)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table under a title."""
    lines = [f"\n### {title}\n", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write whole or not at all; a :class:`Share` becomes its fields."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as staged:
        staged.write_text(json.dumps(content, indent=2, default=asdict) + "\n", encoding="utf-8")
