"""Describe a benchmark in a section: its table with intervals, or the cells that have ended so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from diffreid_lightning.benchmark.comparison import METRICS
from diffreid_lightning.benchmark.grid_entries import Split
from diffreid_lightning.benchmark.job_records import FILE, Record, read_result
from diffreid_lightning.benchmark.outcomes import cell_values
from diffreid_lightning.benchmark.paired_differences import interval
from diffreid_lightning.benchmark.planning import read_plan
from diffreid_lightning.report.blocks import Section, table, text
from diffreid_lightning.report.markdown_html import render_markdown
from diffreid_lightning.report.picture_budget import PictureBudget

#: Folder of the results, as ``benchmark.results_files`` names it; importing it would import torch.
RESULTS = "results"
_CELLS, _TABLE = "cells", "table.md"
_COMMANDS = ("fit", "test", "validate")
_DIFFERENCES = "Differences in mAP to the reference with simultaneous 95 % intervals, a panel for each column"


def is_benchmark(root: Path) -> bool:
    """Return true if a folder is the root of a benchmark."""
    return (root / _CELLS).is_dir() or (root / RESULTS / _TABLE).is_file()


def describe_benchmark(root: Path, title: str, level: int, budget: PictureBudget) -> Section:
    """Describe a benchmark as it was planned last: the table it wrote, else its cells so far.

    Args:
        root: its folder.
        title: the heading.
        level: its level.
        budget: embeds its picture.
    """
    planned = read_plan(root)
    begun = sorted((root / _CELLS).glob(f"**/seed-*/*/{FILE}"), key=lambda file: file.stat().st_mtime)
    begun = [file.parent for file in begun if ".outdated-" not in file.parent.name]
    known = begun if planned is None else [folder for folder in begun if folder.relative_to(root).as_posix() in planned]
    folders = {folder.parent.relative_to(root / _CELLS).as_posix(): folder for folder in known}  # the newest of a cell
    codes = [None if record is None else record.exit_code for record in map(Record.read, folders.values())]
    done = {name: folder for (name, folder), code in zip(folders.items(), codes, strict=True) if code == 0}
    states = {"done": len(done), "running or killed": codes.count(None)}
    states["failed"] = len(codes) - sum(states.values())
    words = f"{len(codes)} cells begun: " + ", ".join(f"{count} {state}" for state, count in states.items())
    if len(begun) > len(folders):
        shown = "the newest of each cell, of whatever configuration" if planned is None else "the last configuration"
        words += f"; of {len(begun)} folders of cells {shown} is shown"
    blocks = [text(words)] if begun else []
    file = root / RESULTS / _TABLE
    if file.is_file() and read_plan(file.parent) == planned:
        html = render_markdown(file.read_text(encoding="utf-8"), level + 1, file.parent, budget)
        blocks.append(Markup(html.replace(Markup.escape("<br>"), Markup("<br>"))))
        blocks += budget.embed_file(file.parent / "differences.png", _DIFFERENCES)
    else:
        blocks.append(_tabulate_cells(done))
    return Section(title, blocks)


def describe_interval(values: Sequence[float]) -> str:
    """Write mean, 95 % interval and number of values: ``51.5 (49.1 to 53.9), n = 4``."""
    if not values:
        return "–"
    found = interval(values)
    middle = "" if found.half is None else f" ({found.low:.1f} to {found.high:.1f})"
    return f"{found.mean:.1f}{middle}, n = {found.count}"


def _tabulate_cells(folders: dict[str, Path]) -> Markup:
    """Tabulate finished cells; all are read of one split, since numbers of two are not comparable."""
    results = {
        name: found[1]
        for name, folder in folders.items()
        for command in _COMMANDS
        if (found := read_result(folder, command)) is not None
    }
    split: Split = "test" if any(cell_values("test", each) for each in results.values()) else "val"
    values: dict[str, dict[str, list[float]]] = {}
    for name, summary in results.items():
        group = name.rpartition("/")[0] + ", re-ranked" * summary.reranked
        for metric, value in cell_values(split, summary).items():
            values.setdefault(group, {}).setdefault(metric, []).append(value)
    rows = [(name, *(describe_interval(found[metric]) for metric in METRICS)) for name, found in values.items()]
    caption = f"Results so far on {split} in percent: mean over seeds with its 95 % interval (Student's t)"
    return table(caption, ("initialization / setting / dataset", *METRICS), rows)
