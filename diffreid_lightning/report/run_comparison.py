"""Compare runs side by side: results, means over seeds, common curves, and settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from diffreid_lightning.benchmark.paired_differences import interval_over_people
from diffreid_lightning.durations import format_duration
from diffreid_lightning.metric_history import Curve
from diffreid_lightning.reid.query_table import query_file, read_average_precisions
from diffreid_lightning.report.benchmark_section import describe_interval
from diffreid_lightning.report.blocks import Section, block, table, text
from diffreid_lightning.report.line_chart import MOST_LINES, draw_lines
from diffreid_lightning.report.run_files import RunFiles
from diffreid_lightning.report.run_section import METRIC_NAMES, format_number
from diffreid_lightning.report.subjects import Subject

_SEED, _PLACE = "seed_everything", "trainer.default_root_dir"
_MAX_ROWS, _MAX_CHARTS = 200, 8


def compare_subjects(subjects: Sequence[Subject]) -> Section:
    """Compare subjects by the results, curves and settings of runs with the same label."""
    names = [subject.name for subject in subjects]
    blocks = [table("Results in percent, steps and time", ("result", *names), _list_results(subjects))]
    seeds = average_seeds(subjects)
    if seeds:
        caption = "Mean over seeds in percent with its 95 % interval (Student's t)"
        blocks.append(table(caption, ("runs", "split", *METRIC_NAMES[:2]), seeds))
    rows = _list_settings(subjects)
    settings = [table("Settings that are not equal in all", ("setting", *names), rows[:_MAX_ROWS])]
    settings += [text(f"{len(rows) - _MAX_ROWS} more are not shown.")] if len(rows) > _MAX_ROWS else []
    return Section(
        "Comparison", blocks, [Section("Curves", _overlay_curves(subjects)), Section("Settings that differ", settings)]
    )


def differing_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the settings that are not equal in all configurations: their values by name, a dash where one has none.

    Args:
        settings: values by dotted name, of each configuration; an empty one is of no run and is not compared.
    """
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name, "–") for each in settings] for name in names}
    given = [place for place, each in enumerate(settings) if each]
    return {name: found for name, found in values.items() if len({found[place] for place in given}) > 1}


def average_seeds(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    """Return names, split, mAP and Rank-1 with intervals of single runs that differ in nothing but their seed."""
    groups: dict[tuple[str, object], dict[str, tuple[str, Mapping[str, float]]]] = {}
    for subject in subjects:
        run = subject.runs.get("")
        if run is None or not run.settings:
            continue
        for split, found in run.results.items():
            key = tuple(sorted((name, value) for name, value in run.settings.items() if name not in (_SEED, _PLACE)))
            if set(METRIC_NAMES[:2]) <= set(found):
                seed = run.settings.get(_SEED, "")
                groups.setdefault((split, key), {}).setdefault(seed, (subject.name, found))
    return [
        (
            ", ".join(name for name, _ in group.values()),
            split,
            *(describe_interval([found[metric] for _, found in group.values()]) for metric in METRIC_NAMES[:2]),
        )
        for (split, _), group in groups.items()
        if len(group) > 1
    ]


def _list_results(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label in dict.fromkeys(label for subject in subjects for label in subject.runs):
        runs = [subject.runs.get(label) for subject in subjects]
        done = [run.summary if run else None for run in runs]
        found = [run.results if run else {} for run in runs]
        lines = {
            f"{split} {name}": [format_number(each.get(split, {}).get(name)) for each in found]
            for split in ("test", "val")
            for name in METRIC_NAMES
        }
        lines["steps behind the weights"] = [f"{each.total_steps:,}" if each else "–" for each in done]
        lines["time"] = [format_duration(sum(each.seconds.values())) if each else "–" for each in done]
        lines.update(_list_differences(runs))
        rows += [(f"{label} {name}".strip(), *texts) for name, texts in lines.items() if set(texts) != {"–"}]
    return rows


def _list_differences(runs: Sequence[RunFiles | None]) -> dict[str, list[str]]:
    """Return the differences in mAP to the first run with their 95 % intervals over people, where queries are equal."""
    lines = {}
    for split in ("test", "val"):
        queries = [read_average_precisions(query_file(run.folder, split)) if run else {} for run in runs]
        found = [interval_over_people({0: each}, {0: queries[0]}, 0.95) if each else None for each in queries[1:]]
        means = [np.mean(np.concatenate(list(each.values()))) if each else np.nan for each in queries]
        lines[f"{split} mAP above the first run's, 95 % over people"] = [
            "–",
            *(
                "–" if ends is None else f"{mean - means[0]:+.1f} ({ends[0]:+.1f} to {ends[1]:+.1f})"
                for mean, ends in zip(means[1:], found, strict=True)
            ),
        ]
    return lines


def _overlay_curves(subjects: Sequence[Subject]) -> list[Markup]:
    lines: dict[str, dict[str, Curve]] = {}
    for subject in subjects[:MOST_LINES]:
        for label, run in subject.runs.items():
            for metric, line in run.history.items():
                lines.setdefault(f"{label} {metric}".strip(), {})[subject.name] = line
    common = sorted(title for title, found in lines.items() if len(found) > 1)
    common.sort(key=lambda title: not title.endswith(("train/loss", "val/mAP")))
    charts = [draw_lines(title, lines[title]) for title in common[:_MAX_CHARTS]]
    return [block("charts", charts)] if charts else []


def _list_settings(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    """Return the differing settings of runs with the same label, and the differing versions of packages."""
    found: dict[str, list[str]] = {}
    for label in dict.fromkeys(label for subject in subjects for label in subject.runs):
        runs = [subject.runs.get(label) for subject in subjects]
        differing = differing_settings([_shorten_paths(run.settings, label) if run else {} for run in runs])
        found.update({f"{label} {name}".strip(): values for name, values in differing.items() if name != _PLACE})
    summaries = [[run.summary for run in subject.runs.values() if run.summary] for subject in subjects]
    versions = differing_settings([each[-1].versions if each else {} for each in summaries])
    found.update({f"version of {name}": values for name, values in versions.items()})
    return [(name, *values) for name, values in found.items()]


def _shorten_paths(settings: Mapping[str, str], label: str) -> Mapping[str, str]:
    """Return the settings of a chain's stage with paths from the chain's root on: those of two chains all differ."""
    root = settings.get(_PLACE, "").rpartition("/")[0] if label else ""
    return {name: value.replace(f"{root}/", "") for name, value in settings.items()} if root else settings
