"""Section about a benchmark: its tables with intervals, or the cells that have ended so far."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffreid_lightning.benchmark.job_records import FILE, Record
from diffreid_lightning.benchmark.paired_differences import interval
from diffreid_lightning.errors import UserError
from diffreid_lightning.report.blocks import Block, Section, Table, Text
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_section import format_number
from diffreid_lightning.run_summary import read_summary

#: Folder of the results, as ``benchmark.results_files`` names it; importing it would import torch.
RESULTS = "results"
_CELLS, _TABLE = "cells", "table.csv"
_LEVEL = 0.05  #: of the adjusted p-values that get a star
_METRICS = ("mAP", "Rank-1")


def is_benchmark(root: Path) -> bool:
    """Return true if a folder is the root of a benchmark."""
    return (root / _CELLS).is_dir() or (root / RESULTS / _TABLE).is_file()


def describe_benchmark(root: Path, title: str, budget: PictureBudget) -> Section:
    """Describe a benchmark: the tables it wrote, else its cells so far.

    Args:
        root: its folder.
        title: the heading.
        budget: embeds its picture.
    """
    blocks: list[Block] = [Text(_count_states(root))]
    folder = root / RESULTS
    if (folder / _TABLE).is_file():
        with (folder / _TABLE).open(newline="", encoding="utf-8") as handle:
            blocks += tabulate_results_file(list(csv.DictReader(handle)))
        blocks += [Text(sentence) for sentence in _read_caption(folder / "table.md")]
        alt = "Differences in mAP to the reference with simultaneous 95 % intervals, a panel for each column"
        blocks += budget.embed_file(folder / "differences.png", alt, alt)
    else:
        blocks += _tabulate_cells(root / _CELLS)
    return Section(title, blocks)


def tabulate_results_file(rows: Sequence[Mapping[str, str]]) -> list[Block]:
    """Arrange the rows of ``table.csv`` as tables: one for each setting and metric, datasets as columns."""
    tables: list[Block] = []
    for setting, metric in dict.fromkeys((row["setting"], row["metric"]) for row in rows):
        part = [row for row in rows if (row["setting"], row["metric"]) == (setting, metric)]
        datasets = list(dict.fromkeys(row["dataset"] for row in part))
        lines = []
        for label, leak in dict.fromkeys((row["initialization"], row["sees_target"]) for row in part):
            own = {row["dataset"]: row for row in part if (row["initialization"], row["sees_target"]) == (label, leak)}
            name = f"{label} †" if leak == "True" else label
            lines.append((name, *(_entry_text(own.get(dataset)) for dataset in datasets)))
        tables.append(Table(f"{setting}: {metric} in percent", ("initialization", *datasets), lines))
    return tables


def _entry_text(row: Mapping[str, str] | None) -> str:
    """Write ``51.5 ± 1.0; difference +0.8 (-4.6 to +6.2), n = 4``."""
    if row is None or not row["mean"]:
        return "failed" if row is not None and int(row["failed"] or 0) else "–"
    text = format_number(float(row["mean"])) + (f" ± {float(row['sd']):.1f}" if row["sd"] else "")
    if row.get("difference"):
        text += f"; difference {float(row['difference']):+.1f}"
        if row["low_simultaneous"]:
            text += f" ({float(row['low_simultaneous']):+.1f} to {float(row['high_simultaneous']):+.1f})"
        text += " *" if row["p_holm"] and float(row["p_holm"]) < _LEVEL else ""
    return f"{text}, n = {row['n']}"


def _read_caption(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [line for line in lines if line and not line.startswith("|")]


def _count_states(root: Path) -> str:
    records = [Record.read(folder) for folder in _cell_folders(root / _CELLS).values()]
    done = sum(record is not None and record.exit_code == 0 for record in records)
    failed = sum(record is not None and record.exit_code not in (0, None) for record in records)
    return (
        f"{len(records)} cells begun: {done} done, {failed} failed, {len(records) - done - failed} running or killed."
    )


def _cell_folders(cells: Path) -> dict[str, Path]:
    """Return the newest folder of each cell by name, ``INITIALIZATION/SETTING/DATASET/seed-N``."""
    files = sorted(cells.glob(f"**/seed-*/*/{FILE}"), key=lambda file: file.stat().st_mtime)
    folders = [file.parent for file in files if ".outdated-" not in file.parent.name]
    return {folder.parent.relative_to(cells).as_posix(): folder for folder in folders}


def _tabulate_cells(cells: Path) -> list[Block]:
    values: dict[str, dict[str, list[float]]] = {}
    for name, folder in _cell_folders(cells).items():
        runs = sorted([*folder.glob("fit-*"), *folder.glob("test-*")])
        try:
            summary = read_summary(runs[-1]) if runs else None
        except UserError:
            continue
        for metric in _METRICS if summary is not None and "test" in summary.metrics else ():
            value = summary.metrics["test"].get(metric) if summary is not None else None
            if value is not None:
                values.setdefault(name.rpartition("/")[0], {}).setdefault(metric, []).append(value)
    if not values:
        return [Text("No cell has a result yet.")]
    rows = [(name, *(interval_text(found.get(metric, [])) for metric in _METRICS)) for name, found in values.items()]
    caption = "Results so far in percent: mean over seeds with its 95 % interval (Student's t)"
    return [Table(caption, ("initialization / setting / dataset", *_METRICS), rows)]


def interval_text(values: Sequence[float]) -> str:
    """Write mean, 95 % interval and number of values: ``51.5 (49.1 to 53.9), n = 4``."""
    if not values:
        return "–"
    found = interval(values)
    middle = "" if found.half is None else f" ({found.low:.1f} to {found.high:.1f})"
    return f"{found.mean:.1f}{middle}, n = {found.count}"
