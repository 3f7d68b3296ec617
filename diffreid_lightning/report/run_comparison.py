"""Compare runs side by side: results, means over seeds, common curves, and settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffreid_lightning.report.benchmark_section import interval_text
from diffreid_lightning.report.blocks import Block, Section, Table, Text
from diffreid_lightning.report.line_chart import MOST_LINES, Line, draw_lines
from diffreid_lightning.report.run_files import RunFiles
from diffreid_lightning.report.run_section import RANKED, format_number, format_seconds
from diffreid_lightning.report.subjects import Subject

_SEED = "seed_everything"
_PLACE = "trainer.default_root_dir"
_MOST_ROWS, _MOST_CHARTS = 200, 8
_TITLE = "Comparison"


def compare_subjects(subjects: Sequence[Subject]) -> Section:
    """Compare subjects by the results, curves and settings of runs with the same label."""
    blocks: list[Block] = [*_tabulate_results(subjects), *tabulate_seeds(subjects)]
    children = [
        Section("Curves", _overlay_curves(subjects)),
        Section("Settings that differ", _tabulate_settings(subjects)),
    ]
    return Section(_TITLE, blocks, [child for child in children if child])


def differing_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the settings that are not equal in all configurations: their values by name, a dash where one has none.

    Args:
        settings: values by dotted name, of each configuration.
    """
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name, "–") for each in settings] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def tabulate_seeds(subjects: Sequence[Subject]) -> list[Block]:
    """Tabulate mean and 95 % interval of single runs that differ in their seed alone."""
    groups: dict[tuple[tuple[str, str], ...], list[RunFiles]] = {}
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for subject in subjects:
        run = subject.runs.get("")
        if run is not None and run.settings and "mAP" in run.results:
            key = tuple(sorted((name, text) for name, text in run.settings.items() if name not in (_SEED, _PLACE)))
            seeds = {each.settings.get(_SEED) for each in groups.get(key, [])}
            if run.settings.get(_SEED) not in seeds:
                groups.setdefault(key, []).append(run)
                names.setdefault(key, []).append(subject.name)
    rows = []
    for key, runs in groups.items():
        if len(runs) > 1:
            texts = (interval_text([run.results[each] for run in runs if each in run.results]) for each in RANKED[:2])
            rows.append((", ".join(names[key]), *texts))
    caption = "Mean over seeds in percent with its 95 % interval (Student's t)"
    return [Table(caption, ("runs", *RANKED[:2]), rows)] if rows else []


def _tabulate_results(subjects: Sequence[Subject]) -> list[Block]:
    rows: list[tuple[str, ...]] = []
    for label in dict.fromkeys(label for subject in subjects for label in subject.runs):
        runs = [subject.runs.get(label) for subject in subjects]
        lines = {
            **{name: [format_number(run.results.get(name)) if run else "–" for run in runs] for name in RANKED},
            "steps": [f"{run.summary.total_steps:,}" if run and run.summary else "–" for run in runs],
            "time": [format_seconds(sum(run.summary.seconds.values())) if run and run.summary else "–" for run in runs],
        }
        for name, texts in lines.items():
            if set(texts) != {"–"}:
                rows.append((f"{label}: {name}" if label else name, *texts))
    if not rows:
        return [Text("The runs have no results in common.")]
    return [Table("Results in percent, steps and time", ("", *(subject.name for subject in subjects)), rows)]


def _overlay_curves(subjects: Sequence[Subject]) -> list[Block]:
    lines: dict[str, dict[str, Line]] = {}
    for subject in subjects[:MOST_LINES]:
        for label, run in subject.runs.items():
            for metric, line in run.history.items():
                lines.setdefault(f"{label}: {metric}" if label else metric, {})[subject.name] = line
    common = {title: found for title, found in lines.items() if len(found) > 1}
    order = sorted(common, key=lambda title: (not title.endswith(("train/loss", "val/mAP")), title))
    return [draw_lines(title, common[title]) for title in order[:_MOST_CHARTS]]


def _tabulate_settings(subjects: Sequence[Subject]) -> list[Block]:
    settings = []
    for subject in subjects:
        found: dict[str, str] = {}
        for label, run in subject.runs.items():
            versions = {} if run.summary is None else run.summary.versions
            named = {**run.settings, **{f"version of {name}": text for name, text in versions.items()}}
            found.update({f"{label} {name}".strip(): text for name, text in named.items() if name != _PLACE})
        settings.append(found)
    differing = differing_settings(settings)
    if not differing:
        return [Text("None.")]
    rows = [(name, *texts) for name, texts in differing.items()]
    blocks: list[Block] = [
        Table("Settings that are not equal in all", ("setting", *(each.name for each in subjects)), rows[:_MOST_ROWS])
    ]
    return blocks + ([Text(f"{len(rows) - _MOST_ROWS} more are not shown.")] if len(rows) > _MOST_ROWS else [])
