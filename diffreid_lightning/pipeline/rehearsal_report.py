"""Report a rehearsal: shares of its images, cost of the full run, what to change; printed and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from diffreid_lightning.durations import format_duration
from diffreid_lightning.filtering.rules.base import Selection
from diffreid_lightning.filtering.scored_manifest import NEAREST_LABEL, ScoredFolder, label_text
from diffreid_lightning.filtering.selection import DATASET
from diffreid_lightning.filtering.statistics import SelectionReport, summarize
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.rehearsal import SCORED, SELECT, Rehearsal
from diffreid_lightning.pipeline.rehearsal_advice import Found, Suggestion, suggest
from diffreid_lightning.pipeline.rehearsal_costs import Disk, StageCost, measure_disk, measure_stages
from diffreid_lightning.storage.json_notes import replace_json

FILE = "rehearsal.json"
_HOW = "Flags are added to a stage's 'run' in a YAML file of your own, laid over the chain by one more --config."


@dataclass(frozen=True)
class LabelShares:
    """Shares of scored images whose label is right in one sense or the other.

    Args:
        images: number of images, with or without a score.
        unscored: number of those without a score, which count as neither.
        recognized: share that is nearer to the intended identity's real images than to those of any other identity
            that the scorer knows, 0 to 1.
        consistent: share that is nearest to its own label among the generated images, 0 to 1; None if scoring did not
            compare them.
        chance: ``consistent`` for images of random labels, and ``recognized`` if the scorer knows no other identities.
    """

    images: int
    unscored: int
    recognized: float
    consistent: float | None
    chance: float


@dataclass(frozen=True)
class RehearsalReport:
    """Findings of a rehearsal.

    Args:
        rehearsal: what was run.
        shares: of images that show what they should.
        selection: statistics of the chain's filter.
        costs: of the stages.
        disk: space of the outputs.
        suggestions: what to change.
    """

    rehearsal: Rehearsal
    shares: LabelShares
    selection: SelectionReport
    costs: Sequence[StageCost]
    disk: Disk
    suggestions: Sequence[Suggestion]

    @classmethod
    def measure(cls, rehearsal: Rehearsal, selected: bool) -> RehearsalReport:
        """Measure a rehearsal that has ended.

        Args:
            rehearsal: what was run.
            selected: the selection kept something.

        Raises:
            UserError: what the stages made cannot be read.
        """
        root = rehearsal.chain.root
        scored = ScoredFolder.read(root / SCORED)
        selection = Selection(scored.manifest, scored.thumbnails)
        names = scored.manifest.numpy("file_name").astype(str)
        kept = Manifest.read(root / SELECT / DATASET).numpy("file_name").astype(str) if selected else names[:0]
        selection.drop(~np.isin(names, kept), "dropped by the filter")
        report = summarize(selection, scored.features())
        shares, costs = _measure_shares(scored.manifest), measure_stages(rehearsal)
        lost = len(report.lost) / report.before.identities
        found = Found(shares.recognized, shares.consistent, report.kept_share, lost)
        suggestions = suggest(found, costs, rehearsal.settings, rehearsal.full.images_per_identity)
        return cls(rehearsal, shares, report, costs, measure_disk(rehearsal), suggestions)

    @property
    def full_seconds(self) -> float:
        """Return the seconds of the full run up to the selection, one stage after another."""
        return sum(each.full_seconds for each in self.costs)

    def write(self) -> Path:
        """Write the findings as JSON, whole, and return the file."""
        variety = self.selection.variety
        found: dict[str, Any] = {
            "format": 1,
            "rehearsed": {**asdict(self.rehearsal.part), "generated": self.rehearsal.part.generated},
            "full": {**asdict(self.rehearsal.full), "generated": self.rehearsal.full.generated},
            **asdict(self.shares),
            "kept": self.selection.kept,
            "kept_share": self.selection.kept_share,
            "identities_lost": len(self.selection.lost),
            "variety": None if variety is None else asdict(variety),
            "stages": {each.name: asdict(each) for each in self.costs},
            "full_seconds": self.full_seconds,
            "disk_bytes": asdict(self.disk),
            "suggestions": [each._asdict() for each in self.suggestions],
        }
        file = self.rehearsal.chain.root / FILE
        replace_json(file, found, sort_keys=False)
        return file

    def show(self, console: Console) -> None:
        """Print the findings."""
        console.print(self._quality())
        console.print(self._costs())
        part, full = self.rehearsal.part, self.rehearsal.full
        lines = [
            f"Full run: {full.identities:,} identities, {full.real:,} real images, {full.generated:,} generated ones; "
            f"{format_duration(self.full_seconds)} one stage after another and {_size(self.disk.full)} on the disk, "
            f"up to {SELECT} on this machine. Both grow with the images, the time of trainings also with their epochs."
        ]
        if full.identities > part.identities:
            lines.append(
                f"It trains for about {full.real / part.real:.1f} times as many steps, and tells {full.identities:,} "
                f"identities apart instead of {part.identities:,}: its shares will differ."
            )
        if self.suggestions:
            lines += ["", "What to change:"]
            lines += [f"{number}. {each}" for number, each in enumerate(self.suggestions, 1)]
            lines.append(_HOW)
        else:
            lines += ["", "Nothing to change by these shares. The full run is the same command without --rehearse."]
        for line in lines:
            console.print(line, soft_wrap=True)

    def _quality(self) -> Table:
        shares, selection = self.shares, self.selection
        chance = f"chance {shares.chance:.1%}"
        table = Table(title=f"{shares.images:,} generated images", title_justify="left")
        for name, justify in (("", "left"), ("share", "right"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_row("recognized", f"{shares.recognized:.1%}", f"nearest to the intended person; {chance}")
        if shares.consistent is not None:
            table.add_row("consistent", f"{shares.consistent:.1%}", f"nearest to their label's other images; {chance}")
        if shares.unscored:
            table.add_row("without score", f"{shares.unscored / shares.images:.1%}", "not readable, or not scored")
        table.add_row("kept", f"{selection.kept_share:.1%}", f"{selection.kept:,} pass the chain's filter")
        lost, people = len(selection.lost), selection.before.identities
        table.add_row("identities lost", f"{lost / people:.1%}", f"{lost:,} of {people:,} have no image left")
        if (variety := selection.variety) is not None:
            table.add_row(
                "variety", f"{variety.kept:.3f}", f"distance of two kept images; {variety.scored:.3f} unfiltered"
            )
        return table

    def _costs(self) -> Table:
        table = Table(title="time and peak memory", title_justify="left")
        for name in ("stage", "time", "s/image", "images", "GiB", "full run"):
            table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
        for each in self.costs:
            known = each.per_image is not None
            table.add_row(
                each.name,
                format_duration(each.seconds),
                f"{each.per_image:.3g}" if known else "–",
                f"{each.images:,} {each.scales_with}" if known else "–",
                "–" if each.peak_gib is None else f"{each.peak_gib:.1f}",
                format_duration(each.full_seconds),
            )
        return table


def _measure_shares(scored: Manifest) -> LabelShares:
    """Compute the shares of a scored manifest's images.

    Args:
        scored: at least one row, all generated, with the column ``margin``.
    """
    labels, keys = scored.identities()
    margins = scored.numpy("margin")
    consistent = None
    if NEAREST_LABEL in scored.columns:
        own = np.asarray([label_text(key) for key in keys], dtype=object)[labels]
        nearest = np.asarray(scored.table[NEAREST_LABEL].to_pylist(), dtype=object)
        consistent = float((own == nearest).mean()) if any(nearest) else None
    return LabelShares(
        images=len(scored),
        unscored=int(np.isnan(margins).sum()),
        recognized=float((margins > 0).mean()),
        consistent=consistent,
        chance=1 / len(keys),
    )


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
