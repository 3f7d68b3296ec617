"""Print a chain's summary: mAP and Rank-1 by initialization, and the paths of pictures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diffreid_lightning.pipeline.graph import Chain
from diffreid_lightning.run_summary import sound_summary

_NUMBERS = ("mAP", "Rank-1")


def print_report(console: Console, chain: Chain, stages: Collection[str]) -> None:
    """Print the table, with a row for each stage that has results, and the paths.

    Args:
        console: where.
        chain: the chain.
        stages: whose results and pictures belong to it as it is now.
    """
    table = Table(title="fine-tuned from", title_justify="left")
    table.add_column("")
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    older = []
    by_name = {stage.name: stage for stage in chain.stages}
    for label, name in chain.table.items():
        summary = sound_summary(chain.root / name / by_name[name].run_folder)
        found = {} if summary is None else summary.metrics.get("test", {})
        if not set(_NUMBERS) <= set(found):
            continue
        if name not in stages:
            older.append(label)
        else:
            table.add_row(label, *(f"{found[name]:.1f}" for name in _NUMBERS))
    if table.row_count:
        console.print(table)
    if older:
        console.print(f"not shown, since they may be of an earlier configuration: {', '.join(older)}", soft_wrap=True)
    of_before = {stage.name for stage in chain.stages} - set(stages)
    for label, name in chain.pictures.items():
        paths = sorted(chain.root.glob(name))
        if paths and Path(name).parts[0] not in of_before:
            console.print(f"{label}: {paths[-1]}", soft_wrap=True)
