"""Print a comparison, write it into the benchmark's folder, and send it to W&B."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffreid_lightning.benchmark import table_forms
from diffreid_lightning.benchmark.comparison import METRICS, Comparison, Entry, Outcome, Row
from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.paired_differences import paired_values
from diffreid_lightning.paths import make_folder
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.tracking import WandbTracker, finish_tracking
from diffreid_lightning.visualization.interval_plot import IntervalMark, save_intervals

FOLDER = "results"
_TABLE, _CELLS, _PICTURE = "table", "cells", "differences.png"


def print_comparison(grid: Grid, comparison: Comparison, console: Console) -> None:
    """Print one table for each setting that was begun, then the sentences that say what the numbers are."""
    settings = dict.fromkeys(setting for setting, _ in comparison.columns)
    begun = {setting for (_, (setting, _)), entry in comparison.entries.items() if entry.count("done", "failed")}
    for setting in filter(begun.__contains__, settings):
        columns = [column for column in comparison.columns if column[0] == setting]
        table = Table(title=escape(setting), title_justify="left", show_lines=True)
        table.add_column("initialization")
        for _, dataset in columns:
            table.add_column(escape(dataset), no_wrap=True)
        for row in comparison.rows:
            entries = [entry for column, entry in comparison.row_entries(row).items() if column in columns]
            if entries:
                start, steps, selection, cameras, seeds = table_forms.traits(entries)
                before = "" if start == table_forms.NOTHING else f"pre-trained on {start}, "
                described = f"\n{before}{steps} steps, {selection}, cameras: {cameras}, {seeds} seeds"
                described *= any(entry.count("done") for entry in entries)
                texts = (_lines(comparison.entries.get((row, column))) for column in columns)
                table.add_row(escape(row.title) + described, *texts)
        for each in grid.published:
            if any(column in each.numbers for column in columns):
                numbers = (table_forms.published_text(each, column) for column in columns)
                table.add_row(escape(f"{each.label} (published)"), *numbers)
        console.print(table)
    if begun < settings.keys():
        left = "; ".join(setting for setting in settings if setting not in begun)
        console.print(f"to do: {left}", soft_wrap=True, markup=False)
    for sentence in table_forms.caption(grid, comparison):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)


def write_comparison(grid: Grid, comparison: Comparison, outcomes: list[Outcome]) -> Path:
    """Write table, cells and picture into ``results`` below the grid's root, each whole; returns the folder."""
    folder = grid.root / FOLDER
    make_folder(folder)
    texts = {
        f"{_TABLE}.md": table_forms.markdown(grid, comparison),
        f"{_TABLE}.tex": table_forms.latex(grid, comparison),
        f"{_TABLE}.csv": table_forms.csv_of(table_forms.rows_of(grid, comparison)),
        f"{_CELLS}.csv": table_forms.csv_of(table_forms.cells_of(outcomes)),
    }
    for name, text in texts.items():
        with replace_file(folder / name, contended=True) as staged:
            staged.write_text(text, encoding="utf-8")
    panels = _panels(comparison)
    if panels:
        rows = [row.title for row in comparison.rows if row in comparison.references]
        axis = f"difference in mAP to {table_forms.references_text(comparison)}"
        together = f"intervals hold together with 95 % (Bonferroni, {comparison.comparisons} comparisons); "
        note = f"{together if comparison.comparisons else ''}dots: seeds"
        with replace_file(folder / _PICTURE, contended=True) as staged:
            save_intervals(panels, rows, axis, staged, note)
    else:
        (folder / _PICTURE).unlink(missing_ok=True)  # of results that no longer count
    return folder


def track_comparison(grid: Grid, comparison: Comparison) -> None:
    """Log the table and its picture as a W&B run of the grid's group; the same run each time."""
    identity = hashlib.sha256(f"{grid.group} {grid.root.resolve()}".encode()).hexdigest()[:8]
    tracker = WandbTracker(name="table", id=identity, group=grid.group, save_dir=str(grid.root / FOLDER))
    with tracker.tolerate_failures():
        import wandb

        rows = table_forms.rows_of(grid, comparison)
        columns = list(rows[0]) if rows else []
        shown = {
            "benchmark/table": wandb.Table(columns=columns, data=[[str(row[key]) for key in columns] for row in rows])
        }
        picture = grid.root / FOLDER / _PICTURE
        if picture.is_file():
            shown["benchmark/differences"] = wandb.Image(str(picture))
        tracker.experiment.log({**shown, "trainer/global_step": 0})
    finish_tracking()


def difference_bar(
    comparison: Comparison, row: Row, column: tuple[str, str], *, corrected: bool = True
) -> IntervalMark | None:
    """Return the bar of a row's difference in mAP to its reference, None where there is none.

    Args:
        comparison: of all rows.
        row: one of them.
        column: setting and dataset.
        corrected: the interval holds together with all others of the comparison, in place of alone.
    """
    entry = comparison.entries.get((row, column))
    difference = None if entry is None else entry.differences.get("mAP")
    if entry is None or difference is None:
        return None
    other = comparison.entries[comparison.references[row], column]
    found = difference.together if corrected else difference.alone
    return IntervalMark(found.mean, found.low, found.high, paired_values(entry.values("mAP"), other.values("mAP")))


def _lines(entry: Entry | None) -> str:
    """Write an entry in lines: each number, and its difference below it."""
    if entry is None or not entry.count("done"):
        return table_forms.result_text(entry)
    lines = []
    for metric in METRICS:
        lines.append(f"{metric:<6} {table_forms.number_text(entry, metric)}")
        difference = table_forms.difference_text(entry, metric)
        lines += [f"       {difference}"] if difference else []
    people = table_forms.people_text(entry)
    return "\n".join([*lines, *([people] if people else []), *table_forms.notes(entry)])


def _panels(comparison: Comparison) -> dict[str, dict[str, IntervalMark]]:
    """Collect the differences in mAP by column and row."""
    panels: dict[str, dict[str, IntervalMark]] = {}
    for column in comparison.columns:
        for row in comparison.rows:
            bar = difference_bar(comparison, row, column)
            if bar is not None:
                panels.setdefault(": ".join(column), {})[row.title] = bar
    return panels
