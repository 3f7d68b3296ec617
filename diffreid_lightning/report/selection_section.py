"""Describe a selection in a section: histograms, kept and rejected images with reasons, the dataset card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from diffreid_lightning.datasets.diff_person import NOTE
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.report.blocks import Section, table, text
from diffreid_lightning.report.identity_strips import SCORES, draw_strips
from diffreid_lightning.report.markdown_html import render_markdown
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.storage.json_notes import read_json

#: Folders of a selection, as ``filtering.selection`` names them; importing it would import torch.
DATASET, REJECTED, REPORT = "diff_person", "rejected", "report"
_MOST_REASONS = 20
_HISTOGRAM = "Histograms of the scores of kept and rejected images, with the thresholds as red lines"


def is_selection(folder: Path) -> bool:
    """Return true if ``select`` wrote the folder."""
    return (folder / DATASET / NOTE).is_file()


def describe_selection(folder: Path, title: str, real: Manifest | None, level: int, budget: PictureBudget) -> Section:
    """Describe a selection.

    Args:
        folder: ``--out`` of ``select``.
        title: the heading.
        real: manifest of the real images, for the contact sheets, or None.
        level: level of the heading, for those of the card.
        budget: embeds its pictures.

    Raises:
        UserError: one of its files cannot be read.
    """
    kept, rejected = Manifest.read(folder / DATASET), Manifest.read(folder / REJECTED)
    rules = read_json(folder / DATASET / NOTE, {"rules": [str]}, remedy="run select again")["rules"]
    total, people = len(kept) + len(rejected), len(kept.identities()[1])
    pictures = folder / REPORT
    card = folder / DATASET / "README.md"
    html = []
    if card.is_file():
        html.append(render_markdown(card.read_text(encoding="utf-8", errors="replace"), level + 2, card.parent, budget))
    children = [
        Section(
            "Scores", [_tabulate_scores(kept, rejected), *budget.embed_file(pictures / "histogram.png", _HISTOGRAM)]
        ),
        Section("Kept images", budget.embed_file(pictures / "kept.png", "Kept images by falling score")),
        Section(
            "Rejected images",
            [
                _count_reasons(rejected),
                *budget.embed_file(pictures / "rejected.png", "Rejected images, a row for each of the main reasons"),
            ],
        ),
        Section("Contact sheet of each identity", draw_strips([kept, rejected], real, budget)),
        Section("Dataset card", html, collapsed=True),
    ]
    counts = f"{len(kept):,} of {total:,} images kept ({len(kept) / max(1, total):.1%}), of {people:,} identities."
    return Section(title, [text(counts), text(f"Rules, in order: {'; '.join(rules) or 'none'}.")], children)


def _tabulate_scores(*parts: Manifest) -> Markup:
    """Tabulate median and 5 to 95 % range of each score, of kept and of rejected images."""
    rows = [(name, *(_describe_range(part, name) for part in parts)) for name in SCORES if name in parts[0].columns]
    heads = (
        f"{len(part):,} {word}: median (5 to 95 %)" for part, word in zip(parts, ("kept", "rejected"), strict=True)
    )
    return table("Scores of kept and rejected images", ("score", *heads), rows)


def _describe_range(part: Manifest, name: str) -> str:
    values = part.numpy(name) if name in part.columns else np.zeros(0)
    values = values[~np.isnan(values)]
    # + 0: no "-0.000"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).round(3) + 0 if len(values) else [np.nan] * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})" if len(values) else "–"


def _count_reasons(rejected: Manifest) -> Markup:
    counts = {str(each["values"]): each["counts"] for each in pc.value_counts(rejected.table["reason"]).to_pylist()}
    most = sorted(counts, key=lambda reason: (-counts[reason], reason))
    rows = [(reason, f"{counts[reason]:,}") for reason in most[:_MOST_REASONS]]
    rest = most[_MOST_REASONS:]
    rows += [(f"{len(rest)} other reasons", f"{sum(counts[reason] for reason in rest):,}")] if rest else []
    return table("Rejected images by reason", ("reason", "images"), rows)
