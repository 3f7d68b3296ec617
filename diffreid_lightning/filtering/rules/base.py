"""Base of the filter rules, and the selection they work on: scored rows, a kept mask, a reason per row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.scored_manifest import PROBLEM
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.schema import SCORED_COLUMNS

ScoreName = Literal["confidence", "similarity", "margin", "consistency"]
PASSED = "passed every rule"
NOTHING_PASSES = "No image passes: the dataset would be empty."  #: also looked for in the log of a selection
_SCORE = "python -m diffreid_lightning predict --config stages/score_generated"

Mask = npt.NDArray[np.bool_]


class Selection:
    """Scored rows with a kept mask and the reason of each row, updated by the rules.

    It starts with all rows but real images and rows without a score.

    Args:
        manifest: the scored rows.
        thumbnails: opens the (N, 1536) thumbnails of the rows; only for rules that compare images.

    Attributes:
        kept: (N,) mask of the kept rows.
        generated: (N,) mask of the rows that are no real images.
        scored: (N,) mask of the generated rows with a score, kept or not.
        regenerate: why an identity's images should be generated again, by label.
    """

    def __init__(self, manifest: Manifest, thumbnails: Callable[[], npt.NDArray[np.uint8]]) -> None:
        self.manifest = manifest
        self._thumbnails = thumbnails
        self.labels, self.identities = manifest.identities()
        self.kept: Mask = np.ones(len(manifest), dtype=bool)
        self.generated: Mask = np.asarray(pc.equal(manifest.table["split"], "generated"))
        self.regenerate: dict[int, str] = {}
        self._reasons = [PASSED]
        self._reason_of = np.zeros(len(manifest), dtype=np.int32)
        self._drop_unscored()
        self.scored: Mask = self.kept.copy()

    def __len__(self) -> int:
        return len(self.kept)

    def score(self, name: ScoreName) -> npt.NDArray[np.float64]:
        """Return the score of every row, (N,); NaN where there is none, which among kept rows only consistency has.

        Raises:
            UserError: the manifest has no such score.
        """
        self.require_column(name)
        return self.manifest.numpy(name)

    def require_column(self, column: str) -> None:
        """Raise a UserError with the stage to run again if the manifest lacks a column of scoring."""
        if column not in self.manifest.columns:
            scored = SCORED_COLUMNS.keys() & set(self.manifest.columns)
            again = "its scores are older than this column; remove the folder of the scored manifest and score again: "
            raise UserError(
                f"The manifest of the images in {self.manifest.root} has no {column}.",
                looked_for=f"{', '.join(SCORED_COLUMNS)}, as scoring writes them",
                found=", ".join(self.manifest.columns),
                remedy=f"{again if scored else 'score it first: '}{_SCORE}",
            )

    def require_score(self, name: ScoreName) -> npt.NDArray[np.float64]:
        """Return the score of every row, (N,), after dropping kept rows that have none.

        Raises:
            UserError: the manifest has no such score.
        """
        scores = self.score(name)
        self.drop(np.isnan(scores), f"no {name}: its label has no other scored image, or there is no other label")
        return scores

    @cached_property
    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """Thumbnails of the rows, (N, 1536), memory-mapped."""
        return self._thumbnails()

    def drop(self, rows: Mask, reason: str) -> None:
        """Drop rows, (N,) bool, for a reason; rows dropped before keep theirs."""
        self._set(rows & self.kept, False, reason)

    def restore(self, rows: Mask, reason: str) -> None:
        """Restore dropped rows, (N,) bool, for a reason."""
        self._set(rows & ~self.kept, True, reason)

    @property
    def reasons(self) -> pa.Array:
        """Reason of each row, kept or dropped, as text."""
        return pa.DictionaryArray.from_arrays(pa.array(self._reason_of), pa.array(self._reasons, pa.string())).cast(
            pa.string()
        )

    def count_reasons(self) -> dict[str, int]:
        """Count the rows of each reason, in order of first use."""
        counts = np.bincount(self._reason_of, minlength=len(self._reasons))
        return {reason: int(count) for reason, count in zip(self._reasons, counts, strict=True) if count}

    def _set(self, rows: Mask, kept: bool, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)
        self.kept[rows] = kept
        self._reason_of[rows] = self._reasons.index(reason)

    def _drop_unscored(self) -> None:
        """Drop real images and rows without a score."""
        table = self.manifest.table
        self.drop(~self.generated, "not a generated image")
        if PROBLEM in self.manifest.columns:
            coded = pc.dictionary_encode(table[PROBLEM]).combine_chunks()  # reasons may differ by file
            rows = self.kept & np.asarray(pc.is_valid(coded))
            numbers = np.asarray(pc.fill_null(coded.indices, 0))
            self._reason_of[rows] = len(self._reasons) + numbers[rows]
            self._reasons += coded.dictionary.to_pylist()
            self.kept[rows] = False
        for name in SCORED_COLUMNS:
            if name in self.manifest.columns and name != "consistency":  # which a label's only image lacks
                self.drop(np.isnan(self.manifest.numpy(name)), "no score")


class SelectionRule(ABC):
    """Rule that drops rows of a selection, or restores some, each with a reason."""

    @abstractmethod
    def apply(self, selection: Selection) -> None:
        """Apply the rule to the kept rows."""

    @property
    def cut(self) -> tuple[ScoreName, float] | None:
        """Score and threshold of the rule, for the histogram; None without a single threshold."""
        return None

    def __str__(self) -> str:
        settings = (f"{name}={value}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({', '.join(settings)})"


def select_rows(selection: Selection, rules: Sequence[SelectionRule]) -> None:
    """Apply rules in order.

    Raises:
        UserError: no row is kept; the message gives the rows dropped by each rule.
    """
    dropped = [f"{int((~selection.kept).sum())} without a score"]
    for rule in rules:
        before = int(selection.kept.sum())
        rule.apply(selection)
        dropped.append(f"{before - int(selection.kept.sum())} of {before} by {type(rule).__name__}")
    if not selection.kept.any():
        counts = selection.count_reasons()
        raise UserError(
            NOTHING_PASSES,
            looked_for="at least one image that every rule keeps",
            found=f"{len(selection)} images; {'; '.join(dropped)}" + _best(selection),
            remedy="lower the threshold (rules of the config; --rules.threshold), or generate better images; reasons: "
            + "; ".join(f"{reason} ({count})" for reason, count in list(counts.items())[:5]),
        )


def _best(selection: Selection) -> str:
    best = []
    for name in SCORED_COLUMNS:
        if name in selection.manifest.columns:
            values = selection.manifest.numpy(name)
            if not np.isnan(values).all():
                best.append(f"{name} {np.nanmax(values):.3f}")
    return f"; the best have {', '.join(best)}" if best else ""


def rank_in_identity(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], rows: Mask
) -> npt.NDArray[np.int64]:
    """Rank the rows of each identity by score.

    Args:
        labels: (N,) identities.
        scores: (N,).
        rows: (N,) mask of the ranked rows.

    Returns:
        (N,) 0 for the best of an identity, 1 for the next, ...; of equal scores the earlier row is better; -1 for rows
        outside the mask.
    """
    part = np.flatnonzero(rows)
    order = part[np.lexsort((-scores[part], labels[part]))]
    own = labels[order]
    first = np.searchsorted(own, own, side="left")
    ranks = np.full(len(labels), -1, dtype=np.int64)
    ranks[order] = np.arange(len(order)) - first
    return ranks
