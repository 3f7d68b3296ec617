"""Compare runs side by side: results, means over seeds, common curves, and settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from diffreid_lightning.report.benchmark_section import describe_interval
from diffreid_lightning.report.blocks import Section, block, table, text
from diffreid_lightning.report.line_chart import MOST_LINES, Line, draw_lines
from diffreid_lightning.report.run_section import RANKED, format_number, format_seconds
from diffreid_lightning.report.subjects import Subject

_SEED, _PLACE = "seed_everything", "trainer.default_root_dir"
_MOST_ROWS, _MOST_CHARTS = 200, 8


def compare_subjects(subjects: Sequence[Subject]) -> Section:
    """Compare subjects by the results, curves and settings of runs with the same label."""
    names = [subject.name for subject in subjects]
    blocks = [table("Results in percent, steps and time", ("", *names), _list_results(subjects))]
    seeds = average_seeds(subjects)
    if seeds:
        caption = "Mean over seeds in percent with its 95 % interval (Student's t)"
        blocks.append(table(caption, ("runs", *RANKED[:2]), seeds))
    rows = [(name, *values) for name, values in differing_settings(list(map(_settings, subjects))).items()]
    settings = [table("Settings that are not equal in all", ("setting", *names), rows[:_MOST_ROWS])]
    settings += [text(f"{len(rows) - _MOST_ROWS} more are not shown.")] if len(rows) > _MOST_ROWS else []
    return Section(
        "Comparison", blocks, [Section("Curves", _overlay_curves(subjects)), Section("Settings that differ", settings)]
    )


def differing_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the settings that are not equal in all configurations: their values by name, a dash where one has none.

    Args:
        settings: values by dotted name, of each configuration.
    """
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name, "–") for each in settings] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def average_seeds(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    """Return names, mAP and Rank-1 with intervals of single runs that differ in nothing but their seed."""
    groups: dict[object, dict[str, Subject]] = {}
    for subject in subjects:
        run = subject.runs.get("")
        if run is not None and run.settings and set(RANKED[:2]) <= set(run.results):
            key = tuple(sorted((name, value) for name, value in run.settings.items() if name not in (_SEED, _PLACE)))
            groups.setdefault(key, {}).setdefault(run.settings.get(_SEED, ""), subject)
    return [
        (
            ", ".join(each.name for each in group.values()),
            *(describe_interval([each.runs[""].results[metric] for each in group.values()]) for metric in RANKED[:2]),
        )
        for group in groups.values()
        if len(group) > 1
    ]


def _list_results(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label in dict.fromkeys(label for subject in subjects for label in subject.runs):
        runs = [subject.runs.get(label) for subject in subjects]
        done = [run.summary if run else None for run in runs]
        lines = {name: [format_number(run.results.get(name)) if run else "–" for run in runs] for name in RANKED}
        lines["steps behind the weights"] = [f"{each.total_steps:,}" if each else "–" for each in done]
        lines["time"] = [format_seconds(sum(each.seconds.values())) if each else "–" for each in done]
        rows += [(f"{label} {name}".strip(), *texts) for name, texts in lines.items() if set(texts) != {"–"}]
    return rows


def _overlay_curves(subjects: Sequence[Subject]) -> list[Markup]:
    lines: dict[str, dict[str, Line]] = {}
    for subject in subjects[:MOST_LINES]:
        for label, run in subject.runs.items():
            for metric, line in run.history.items():
                lines.setdefault(f"{label} {metric}".strip(), {})[subject.name] = line
    common = sorted(title for title, found in lines.items() if len(found) > 1)
    common.sort(key=lambda title: not title.endswith(("train/loss", "val/mAP")))
    charts = [draw_lines(title, lines[title]) for title in common[:_MOST_CHARTS]]
    return [block("charts", charts)] if charts else []


def _settings(subject: Subject) -> dict[str, str]:
    """Return the settings and versions of a subject's runs by name."""
    found = {}
    for label, run in subject.runs.items():
        versions = {} if run.summary is None else run.summary.versions
        named = {**run.settings, **{f"version of {name}": value for name, value in versions.items()}}
        found.update({f"{label} {name}".strip(): value for name, value in named.items() if name != _PLACE})
    return found
