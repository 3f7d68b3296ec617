"""Sections about a run: facts, results, training curves, pictures, configuration and versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from diffreid_lightning.report.blocks import Block, Section, Table, Text
from diffreid_lightning.report.line_chart import draw_lines
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_files import RunFiles
from diffreid_lightning.run_summary import RunSummary

RANKED = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
_FIRST = ("train/loss", "val/mAP")  # charts that come first
_MOST_CHARTS = 24
_ONE_RUN = "Single numbers without an interval: the run has one seed. Give runs of several seeds to see their spread."
_PICTURES = {
    "rank_lists_test.png": "Rank lists of the test: each row has a query and its nearest gallery images, right ones "
    "framed green, wrong ones red, from the lowest average precision to the highest",
    "rank_lists_val.png": "Rank lists of the validation: each row has a query and its nearest gallery images, right "
    "ones framed green, wrong ones red, from the lowest average precision to the highest",
    "clusters.png": "Images of some clusters of the last clustering, a row for each",
}


def describe_run(run: RunFiles, title: str, budget: PictureBudget) -> Section:
    """Describe a run.

    Args:
        run: its files.
        title: the heading.
        budget: embeds its pictures.
    """
    blocks: list[Block] = []
    if run.problem:
        blocks.append(Text(run.problem))
    elif run.summary is None and not run.folder.name.startswith("predict"):  # which writes none
        blocks.append(Text("No summary: the run has not ended, or it failed."))
    elif run.summary is not None:
        blocks.append(Table("Run", ("", ""), [*list_facts(run.summary).items()]))
        blocks += tabulate_results(run.summary)
    children = [
        Section("Training curves", draw_history(run)),
        Section("Pictures", _embed_pictures(run.folder, budget)),
        Section("Configuration", [Text(run.config, preformatted=True)] if run.config else (), collapsed=True),
    ]
    if run.summary is not None and run.summary.versions:
        versions = Table("Versions", ("package", "version"), [*run.summary.versions.items()])
        children.append(Section("Versions", [versions], collapsed=True))
    return Section(title, blocks, [child for child in children if child])


def list_facts(summary: RunSummary) -> dict[str, str]:
    """Return the facts of a summary as texts by name."""
    start = summary.initialization.get("init_from")
    data = summary.data
    facts = {
        "command": f"{summary.command}, attempt {summary.attempt}",
        "model": " ".join(str(summary.model[key]) for key in ("class", "backbone") if summary.model.get(key)),
        "parameters": _count(summary.model.get("parameters")),
        "training data": _describe_part(data.get("train")),
        "test data": _describe_part(data.get("test")),
        "image size": " × ".join(map(str, data.get("image_size") or ())),
        "initialization": str(start or ("random weights" if summary.model.get("backbone") else "")),
        "steps behind the weights": "" if summary.total_steps == summary.steps else f"{summary.total_steps:,}",
        "steps and epochs": f"{summary.steps:,} in {summary.epochs:,} epochs",
        "tested weights": summary.selection or "",
        "seed": "" if summary.seed is None else str(summary.seed),
        "time": ", ".join(f"{name} {format_seconds(value)}" for name, value in summary.seconds.items()),
        "device": ", ".join(str(summary.device[key]) for key in ("name", "precision") if key in summary.device),
    }
    return {name: text for name, text in facts.items() if text}


def tabulate_results(summary: RunSummary) -> list[Block]:
    """Return the retrieval results of validation and test as a table."""
    splits = {name: metrics for name, metrics in summary.metrics.items() if "mAP" in metrics}
    if not splits:
        return []
    rows = [(name, *(format_number(metrics.get(each)) for each in RANKED)) for name, metrics in splits.items()]
    return [Table("Results in percent", ("split", *RANKED), rows), Text(_ONE_RUN)]


def draw_history(run: RunFiles) -> list[Block]:
    """Draw the metrics of a run, training loss and validation first."""
    names = sorted(run.history, key=lambda name: (name not in _FIRST, name))
    charts: list[Block] = [draw_lines(name, {name: run.history[name]}) for name in names[:_MOST_CHARTS]]
    left = names[_MOST_CHARTS:]
    return charts + ([Text(f"Not drawn: {', '.join(left)}.")] if left else [])


def format_seconds(seconds: float) -> str:
    """Write a duration: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_number(value: float | None) -> str:
    """Write a result with one digit; a dash for none."""
    return "–" if value is None or value != value else f"{value:.1f}"


def _embed_pictures(folder: Path, budget: PictureBudget) -> list[Block]:
    blocks: list[Block] = []
    for name, alt in _PICTURES.items():
        blocks += budget.embed_file(folder / name, alt, alt.partition(":")[0])
    samples = sorted((folder / "samples").glob("epoch-*.png"))
    if samples:
        epoch = int(re.sub(r"\D", "", samples[-1].stem) or 0)
        alt = f"Samples of the model after epoch {epoch}, a row for each prompt"
        blocks += budget.embed_file(samples[-1], alt, alt.partition(",")[0])
    return blocks


def _describe_part(note: object) -> str:
    """Describe the data of a split: sources and counts."""
    if not isinstance(note, Mapping):
        return ""
    manifests = note.get("manifests")
    sources = [note.get("source")] if note.get("source") else []
    for each in manifests if isinstance(manifests, list) else []:
        sources += each.get("sources", []) if isinstance(each, Mapping) else []
    counts = [f"{_count(note[key])} {key}" for key in ("identities", "images", "queries", "gallery") if key in note]
    return ": ".join(filter(None, (", ".join(map(str, sources)), ", ".join(counts))))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value or "")
