"""Describe a run in sections: results, training curves, pictures, summary and configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from diffreid_lightning.durations import format_duration
from diffreid_lightning.report.blocks import Section, block, table, text
from diffreid_lightning.report.line_chart import draw_lines
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_files import RunFiles, named_texts

METRIC_NAMES = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
_FIRST = ("train/loss", "val/mAP")  # charts that come first
_MAX_CHARTS = 24
_ONE_RUN = "Single numbers have no interval: give runs of several seeds to see their spread."
_LISTS = "a row for each query: its nearest gallery images, right ones framed green, wrong ones red, worst query first"
_PICTURES = {
    "rank_lists_test.png": f"Rank lists of the test, {_LISTS}",
    "rank_lists_val.png": f"Rank lists of the validation, {_LISTS}",
    "clusters.png": "Images of the last clusters, a row for each",
}


def describe_run(run: RunFiles, title: str, budget: PictureBudget) -> Section:
    """Describe a run.

    Args:
        run: its files.
        title: the heading.
        budget: embeds its pictures.
    """
    blocks = [text(run.problem)] if run.problem else []
    children = [
        Section("Training curves", draw_history(run)),
        Section("Pictures", _embed_pictures(run.folder, budget)),
        Section("Configuration", [block("code", run.config)] if run.config else (), collapsed=True),
    ]
    if run.summary is not None:
        words = [run.summary.command, run.summary.model.get("class"), run.summary.model.get("backbone")]
        start = run.summary.initialization.get("init_from") or (words[2] and "random weights")
        words += [start and f"from {start}", f"{run.summary.steps:,} steps"]
        words += [format_duration(sum(run.summary.seconds.values()))]
        blocks.append(text(", ".join(filter(None, words))))
        rows = [
            (name, *(format_number(found.get(each)) for each in METRIC_NAMES)) for name, found in run.results.items()
        ]
        blocks += [table("Results in percent", ("split", *METRIC_NAMES), rows), text(_ONE_RUN)] if rows else []
        facts = table("Summary of the run", ("name", "value"), list(named_texts(asdict(run.summary))))
        children.append(Section("Summary and versions", [facts], collapsed=True))
    return Section(title, blocks, children)


def draw_history(run: RunFiles) -> list[Markup]:
    """Draw the metrics of a run, training loss and validation first."""
    names = sorted(run.history, key=lambda name: (name not in _FIRST, name))
    charts = [draw_lines(name, {name: run.history[name]}) for name in names[:_MAX_CHARTS]]
    left = names[_MAX_CHARTS:]
    return [block("charts", charts)] * bool(charts) + [text(f"Not drawn: {', '.join(left)}.")] * bool(left)


def format_number(value: float | None) -> str:
    """Write a result with one decimal; a dash for none."""
    return "–" if value is None or value != value else f"{value:.1f}"


def _embed_pictures(folder: Path, budget: PictureBudget) -> list[Markup]:
    pictures = {folder / name: alt for name, alt in _PICTURES.items()}
    for file in sorted((folder / "samples").glob("epoch-*.png"))[-1:]:
        pictures[file] = f"Samples after {file.stem.replace('-', ' ')}, a row for each prompt"
    return [each for file, alt in pictures.items() for each in budget.embed_file(file, alt, alt)]
