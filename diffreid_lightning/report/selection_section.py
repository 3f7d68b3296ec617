"""Sections about a selection: counts, histograms with thresholds, kept and rejected images, the dataset card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from diffreid_lightning.datasets.diff_person import NOTE
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.report.blocks import Block, Html, Section, Table, Text
from diffreid_lightning.report.identity_strips import SCORES, draw_strips
from diffreid_lightning.report.markdown_html import render_markdown
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.storage.json_notes import DamagedFile, read_json

#: Folders of a selection, as ``filtering.selection`` names them; importing it would import torch.
DATASET, REJECTED, REPORT = "diff_person", "rejected", "report"
_MOST_REASONS = 20


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
        UserError: one of its manifests cannot be read.
    """
    kept, rejected = Manifest.read(folder / DATASET), Manifest.read(folder / REJECTED)
    pictures = folder / REPORT
    children = [
        Section("Scores", [*tabulate_scores(kept, rejected), *_embed_histogram(pictures, budget)]),
        Section("Kept images", budget.embed_file(pictures / "kept.png", "Kept images by falling score")),
        Section(
            "Rejected images",
            [
                _count_reasons(rejected),
                *budget.embed_file(pictures / "rejected.png", "Rejected images, a row for each of the main reasons"),
            ],
        ),
        Section("Contact sheet of each identity", draw_strips([kept, rejected], real, budget)),
    ]
    card = folder / DATASET / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        html = render_markdown(text, level + 2, card.parent, budget)
        children.append(Section("Dataset card", [Html(html)], collapsed=True))
    return Section(title, _introduce(folder, kept, rejected), [child for child in children if child])


def tabulate_scores(kept: Manifest, rejected: Manifest) -> list[Block]:
    """Tabulate median and 5 to 95 % range of each score, of kept and of rejected images."""
    rows = []
    for name in SCORES:
        texts = [_spread(part, name) for part in (kept, rejected)]
        if any(texts):
            rows.append((name, *(text or "–" for text in texts)))
    head = ("score", f"{len(kept):,} kept: median (5 to 95 %)", f"{len(rejected):,} rejected: median (5 to 95 %)")
    return [Table("Scores of kept and rejected images", head, rows)] if rows else []


def _introduce(folder: Path, kept: Manifest, rejected: Manifest) -> list[Block]:
    total = len(kept) + len(rejected)
    people = len(kept.identities()[1])
    blocks: list[Block] = [
        Text(f"{len(kept):,} of {total:,} images kept ({len(kept) / max(1, total):.1%}), of {people:,} identities.")
    ]
    try:
        rules = read_json(folder / DATASET / NOTE, {"rules": [str]}, remedy="")["rules"]
        blocks.append(Text(f"Rules, in order: {'; '.join(rules) or 'none'}."))
    except DamagedFile as error:
        blocks.append(Text(error.what))
    return blocks


def _embed_histogram(pictures: Path, budget: PictureBudget) -> list[Block]:
    alt = "Histograms of the scores of kept and rejected images, with the thresholds as red lines"
    return budget.embed_file(pictures / "histogram.png", alt, alt)


def _count_reasons(rejected: Manifest) -> Table:
    counts = pc.value_counts(rejected.table["reason"]).to_pylist()
    counts.sort(key=lambda each: (-each["counts"], str(each["values"])))
    rows = [(str(each["values"]), f"{each['counts']:,}") for each in counts[:_MOST_REASONS]]
    rest = sum(each["counts"] for each in counts[_MOST_REASONS:])
    rows += [(f"{len(counts) - _MOST_REASONS} other reasons", f"{rest:,}")] if rest else []
    return Table("Rejected images by reason", ("reason", "images"), rows)


def _spread(part: Manifest, name: str) -> str:
    values = part.numpy(name) if name in part.columns else np.zeros(0)
    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
