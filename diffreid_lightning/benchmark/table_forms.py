"""Write a comparison as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from diffreid_lightning.benchmark.comparison import CONFIDENCE, METRICS, Comparison, Entry, Outcome, Row
from diffreid_lightning.benchmark.grid_entries import Grid, Published

LEVEL = 0.05  #: of the adjusted p-values that get a star
NOTHING = "–"
_EVALUATED = {"test": "on query and gallery", "val": "on held-out identities (val); query and gallery were not read"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$\dagger$", "±": r"$\pm$", "–": "--",
    "‡": r"$\ddagger$",
}  # fmt: skip
_TRAITS = ("pre-trained on", "steps", "selection", "cameras", "seeds")


def traits(entries: Collection[Entry]) -> list[str]:
    """Describe a row by texts: pre-training images and people, steps, selection rule, use of camera labels, seeds."""
    done = [each for entry in entries for each in entry.outcomes if each.values]
    seeds = [entry.count("done") for entry in entries]
    started = [each for each in done if each.images]
    people, images = (_range(getattr(each, name) for each in started) for name in ("identities", "images"))
    return [
        f"{images} of {people}" if started else NOTHING,
        _range(each.steps for each in done),
        ", ".join(sorted({each.selection or NOTHING for each in done})) or NOTHING,
        ", ".join(sorted({"yes" if each.uses_cameras else "no" for each in done})) or NOTHING,
        _range(seeds),
    ]


def result_text(entry: Entry | None) -> str:
    """Write mAP and Rank-1 of an entry: ``48.2 ± 1.0 / 55.4 ± 1.2``, with seeds that are missing or failed."""
    if entry is None:
        return NOTHING
    if not entry.count("done"):
        return "failed" if entry.count("failed") else "to do"
    numbers = [number_text(entry, metric) for metric in METRICS]
    left = notes(entry)
    return " / ".join(numbers) + (f" ({', '.join(left)})" if left else "")


def notes(entry: Entry) -> list[str]:
    """Return how many seeds have failed and how many are to do, as texts."""
    failed, total = entry.count("failed"), len(entry.outcomes)
    missing = total - failed - entry.count("done")
    return [f"{failed} of {total} failed"] * bool(failed) + [f"{missing} of {total} to do"] * bool(missing)


def number_text(entry: Entry, metric: str) -> str:
    """Write ``48.2 ± 1.0``, with a mark where it is re-ranked."""
    mean, deviation = entry.mean(metric), entry.deviation(metric)
    if mean is None:
        return NOTHING
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}") + " ‡" * entry.is_reranked


def difference_text(entry: Entry | None, metric: str) -> str:
    """Write a difference with its simultaneous interval: ``+16.6 (+12.7 to +20.6)*``; "" if there is none."""
    found = None if entry is None else entry.differences.get(metric)
    if found is None:
        return ""
    star = "*" if found.p_holm is not None and found.p_holm < LEVEL else ""
    return found.together.ends_text + star


def people_text(entry: Entry | None) -> str:
    """Write a difference's interval over people: ``people: +9.1 to +22.3``; "" if there is none."""
    found = None if entry is None else entry.differences.get(METRICS[0])
    return "" if found is None or found.people is None else "people: {:+.1f} to {:+.1f}".format(*found.people)


def caption(grid: Grid, comparison: Comparison) -> list[str]:
    """Describe the numbers of a table in sentences."""
    single = any(entry.count("done") == 1 for entry in comparison.entries.values())
    alone = "; a number without is of one seed, which tells nothing of others" if single else ""
    differences = [each for entry in comparison.entries.values() for each in entry.differences.values()]
    sentences = [
        f"mAP / Rank-1 in percent {_EVALUATED[grid.evaluate]}, mean ± standard deviation over seeds{alone}.",
        "pre-trained on: numbers of images and of people, where they are recorded; steps: optimizer steps behind the "
        "tested weights, pre-training included; selection: which weights were tested (last: of the last epoch; best: "
        "best on held-out identities).",
    ]
    if differences:
        sentences.append(f"Second lines: difference to {references_text(comparison)}, paired by seed.")
    if any(each.together.half is None for each in differences):
        sentences.append("A difference of one seed, or of repeats of one measurement, has no interval.")
    if comparison.comparisons:
        sentences.append(
            f"The intervals of the {comparison.comparisons} differences of a metric hold together with "
            f"{CONFIDENCE:.0%} (Student's t, Bonferroni); * p < {LEVEL:g} (paired t-test, adjusted for the "
            f"{comparison.comparisons} by Holm)."
        )
    if any(each.people for each in differences):
        sentences.append(
            f"people: {CONFIDENCE:.0%} interval of the difference in mAP over the tested people (bootstrap), for the "
            "networks that were trained."
        )
    if any(row.sees_target for row in comparison.rows):
        sentences.append("† made with labels of the dataset that it is tested on which the setting keeps from it.")
    if any(entry.is_reranked for entry in comparison.entries.values()):
        sentences.append("‡ with k-reciprocal re-ranking: not comparable with numbers without.")
    rows = {row.label for row in comparison.rows}
    sentences += [f"{row.label}: {row.note}" for row in grid.initializations.values() if row.note and row.label in rows]
    sentences += [f"{entry.label} (published): {entry.cite}." for entry in grid.published]
    return [" ".join(sentence.split()) for sentence in sentences]  # a note may have several lines


def references_text(comparison: Comparison) -> str:
    """Name the row that others are compared with, or each row's own."""
    by_reference: dict[Row, list[Row]] = {}
    for row, other in comparison.references.items():
        by_reference.setdefault(other, []).append(row)
    if len(by_reference) < 2:
        return "".join(other.title for other in by_reference)
    texts = (f"{other.title} ({', '.join(row.title for row in rows)})" for other, rows in by_reference.items())
    return "; ".join(texts)


def published_text(entry: Published, column: tuple[str, str]) -> str:
    """Write the published numbers of a column."""
    found = entry.numbers.get(column)
    return NOTHING if found is None else " / ".join(map(_published_number, found))


def markdown(grid: Grid, comparison: Comparison) -> str:
    """Write the table as Markdown, differences below the results they belong to."""
    heads = ["initialization", *_TRAITS, *(f"{setting}: {dataset}" for setting, dataset in comparison.columns)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in comparison.rows:
        cells = [row.title, *traits(comparison.row_entries(row).values())]
        for column in comparison.columns:
            entry = comparison.entries.get((row, column))
            difference = " / ".join(filter(None, (difference_text(entry, metric) for metric in METRICS)))
            cells.append("<br>".join(filter(None, (result_text(entry), difference, people_text(entry)))))
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    for each in _published_rows(grid, comparison):
        cells = [f"{each.label} (published)", *[NOTHING] * len(_TRAITS)]
        cells += [published_text(each, column) for column in comparison.columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *caption(grid, comparison)]) + "\n"


def latex(grid: Grid, comparison: Comparison) -> str:
    """Write the table for LaTeX with the package booktabs, a line of differences below each line of results."""
    columns = comparison.columns
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{escape(f'{setting}: {data}')}}}" for setting, data in columns)
    rules = " ".join(rf"\cmidrule(lr){{{first}-{first + 1}}}" for first in range(7, 7 + 2 * len(columns), 2))
    metrics = " & ".join(METRICS * len(columns))
    lines = [
        rf"\begin{{tabular}}{{llrllr{'rr' * len(columns)}}}",
        r"\toprule",
        rf"{'& ' * (1 + len(_TRAITS))}{heads} \\",
        rules,
    ]
    lines += [rf"initialization & {' & '.join(_TRAITS)} & {metrics} \\", r"\midrule"]
    for row in comparison.rows:
        entries = [comparison.entries.get((row, column)) for column in columns]
        results = [_latex_result(entry, metric) for entry in entries for metric in METRICS]
        described = map(escape, (row.title, *traits(comparison.row_entries(row).values())))
        lines.append(rf"{' & '.join([*described, *results])} \\")
        differences = [escape(difference_text(entry, metric)) for entry in entries for metric in METRICS]
        if any(differences):
            small = [rf"\scriptsize {text}" if text else "" for text in differences]
            lines.append(rf"{' & '.join([*[''] * (1 + len(_TRAITS)), *small])} \\")
    for each in _published_rows(grid, comparison):
        found = [each.numbers.get(column) for column in columns]
        numbers = [escape(_published_number(pair[place])) if pair else "--" for pair in found for place in range(2)]
        lines.append(rf"{' & '.join([escape(f'{each.label} (published)'), *[''] * len(_TRAITS), *numbers])} \\")
    comments = [f"% {sentence}" for sentence in caption(grid, comparison)]
    return "\n".join([*comments, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape(text: str) -> str:
    """Write a text so that LaTeX shows it as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def rows_of(grid: Grid, comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table in long form, one mapping per row, column and metric; numbers are not rounded."""
    found: list[dict[str, Any]] = []
    for row in comparison.rows:
        entries = comparison.row_entries(row)
        described = dict(zip(_TRAITS, traits(entries.values()), strict=True))
        for (setting, dataset), entry in entries.items():
            for metric in METRICS:
                place = {"initialization": row.label, "sees_target": row.sees_target, "setting": setting}
                found.append({**place, "dataset": dataset, "metric": metric, **_numbers(entry, metric), **described})
    for each in _published_rows(grid, comparison):
        for (setting, dataset), pair in each.numbers.items():
            for metric, number in zip(METRICS, pair, strict=True):
                place = {"initialization": each.label, "sees_target": "", "setting": setting, "dataset": dataset}
                if number == number:  # published
                    found.append({**place, "metric": metric, "mean": number, "published": each.cite})
    keys = list(dict.fromkeys(key for row in found for key in row))
    return [{key: row.get(key, "") for key in keys} for row in found]


def csv_of(rows: Sequence[dict[str, Any]]) -> str:
    """Write mappings of the same keys as CSV, numbers with six digits: the others are noise of the arithmetic."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def cells_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return every cell with its state and results, one mapping each."""
    return [
        {
            "initialization": each.cell.initialization,
            "sees_target": each.cell.sees_target,
            "setting": each.cell.column[0],
            "dataset": each.cell.column[1],
            "seed": each.cell.seed,
            "state": each.state,
            **{metric: each.values.get(metric, "") for metric in METRICS},
            "reranked": each.reranked if each.values else "",
            "start_images": each.images or "",
            "start_identities": each.identities or "",
            "steps": each.steps if each.values else "",
            "seconds": each.seconds if each.values else "",
        }
        for each in outcomes
    ]


def _numbers(entry: Entry, metric: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "n": len(entry.values(metric)),
        "failed": entry.count("failed"),
        "reranked": entry.is_reranked,
        "mean": entry.mean(metric),
        "sd": entry.deviation(metric),
    }
    difference = entry.differences.get(metric)
    if difference is not None:
        alone, together = difference.alone, difference.together
        found |= {"difference": alone.mean, "pairs": alone.count, "low": alone.low, "high": alone.high}
        found |= {"low_simultaneous": together.low, "high_simultaneous": together.high}
        found |= {"p": difference.p, "p_holm": difference.p_holm}
        found |= dict(zip(("low_people", "high_people"), difference.people or (), strict=False))
    return {key: "" if value is None or value != value else value for key, value in found.items()}


def _published_rows(grid: Grid, comparison: Comparison) -> list[Published]:
    """Return the published rows that have a number in one of the columns."""
    return [entry for entry in grid.published if set(entry.numbers) & set(comparison.columns)]


def _published_number(value: float) -> str:
    return NOTHING if value != value else f"{value:.1f}"


def _latex_result(entry: Entry | None, metric: str) -> str:
    if entry is None:
        return "--"
    if not entry.values(metric):
        return "failed" if entry.count("failed") else "--"
    missing = len(entry.outcomes) - entry.count("done")
    text = escape(number_text(entry, metric))
    return rf"{text}$^{{{len(entry.values(metric))}}}$" if missing else text


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    if not found:
        return NOTHING
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,}–{found[-1]:,}"
