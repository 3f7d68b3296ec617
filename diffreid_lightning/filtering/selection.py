"""Select scored images by the filter rules, and write Diff-Person with rejects, report and card.

An image is dropped that

- is a real one, or has no score: it cannot be read, or its person is none of the scorer's (``rules/base.py``);
- is nearly a copy of a real image or of a better generated one, by its pixels (``rules/near_duplicates.py``);
- has a score below the threshold and is not among the best of its person that are kept in any case, or is one of more
  than a person may have (``rules/floor_and_cap.py``; the threshold alone: ``rules/fixed_threshold.py``);
- is not in the best share of its person's (``rules/identity_quantile.py``);
- has a label under which most images look like somebody else (``rules/identity_agreement.py``).

The chain uses the first three (``configs/stages/select.yaml``). The scores: ``scores.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.csv import read_csv

from diffreid_lightning.callbacks.run_artifacts import log_artifacts
from diffreid_lightning.datasets.diff_person import NOTE
from diffreid_lightning.datasets.market_export import place_images
from diffreid_lightning.errors import UserError, check_range, translate_disk_errors
from diffreid_lightning.filtering import selection_plots
from diffreid_lightning.filtering.dataset_card import Audit, Card, write_card
from diffreid_lightning.filtering.rules import Selection, SelectionRule, select_rows
from diffreid_lightning.filtering.scored_manifest import NEAREST, REAL_DISTANCE, ScoredFolder
from diffreid_lightning.filtering.statistics import SelectionReport, format_report, summarize, write_tables
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import refuse_foreign, replace_folder
from diffreid_lightning.storage.json_notes import write_json
from diffreid_lightning.tracking import WandbTracker, finish_tracking

DATASET, REJECTED, REPORT = "diff_person", "rejected", "report"
_CARD = "card"  # its pictures, inside the dataset
_PAIRS = 12


class DiffPersonSelection:
    """Apply the filter rules to scored images and write Diff-Person, without scoring again.

    An image is dropped if it is real, has no score, or a rule drops it; the manifests' column ``reason`` says which.
    ``out`` gets ``diff_person/`` (the dataset: kept images as hard links, manifest, card), ``rejected/`` (a manifest of
    the dropped images, which are not copied) and ``report/`` (histogram, sheets, tables). It is written atomically and
    replaces an earlier selection.

    Args:
        scored: folder of the scored manifest.
        rules: applied in order; see :mod:`~diffreid_lightning.filtering.rules`.
        out: output folder.
        title: name of the dataset.
        license: the Hub's identifier of its license, such as ``cc-by-nc-4.0``; null leaves it to be filled in.
        near_copy: for the card: distance to a real image below which an image counts as its copy, 0 to 1.
        tracker: logger of numbers and pictures; null for none.
    """

    def __init__(
        self,
        scored: str,
        rules: list[SelectionRule],
        out: str = "runs/diff_person",
        title: str = "Diff-Person",
        license: str | None = None,
        near_copy: float = 0.05,
        tracker: WandbTracker | None = None,
    ) -> None:
        check_range("near_copy", near_copy, 0, 1)
        self.scored = scored
        self.rules = rules
        self.out = user_path(out)
        self.title = title
        self.license = license
        self.near_copy = near_copy
        self.tracker = tracker

    def run(self) -> SelectionReport:
        """Select and write.

        Raises:
            UserError: the scored images cannot be used, no image passes, or ``out`` has foreign files.
            RunError: ``out`` cannot be written; its earlier content is unchanged.
        """
        remedy = "give another folder with --out, or remove this one yourself"
        refuse_foreign(self.out, [f"{DATASET}/{NOTE}"], "a selection", remedy, (DATASET, REJECTED, REPORT))
        scored = ScoredFolder.read(self.scored)
        if not len(scored.manifest):
            raise UserError(f"There is no image in {self.scored}.", remedy="generate and score some first")
        selection = Selection(scored.manifest, scored.thumbnails)
        select_rows(selection, self.rules)
        report = summarize(selection, scored.features())
        with (
            translate_disk_errors(
                f"Diff-Person cannot be written to {self.out}.",
                "free disk space and run the same command again; what the folder held before is still there",
            ),
            replace_folder(self.out) as partial,
        ):
            self._write(partial, scored, selection, report)
        if self.tracker is not None:
            _log(self.tracker, report, self.out / REPORT, self.rules)
            log_artifacts(self.tracker, self.scored, [self.out / DATASET])
            finish_tracking()
        return report

    def words(self, report: SelectionReport) -> str:
        """Format the report as text."""
        return format_report(report, [str(rule) for rule in self.rules])

    def _write(self, folder: Path, scored: ScoredFolder, selection: Selection, report: SelectionReport) -> None:
        rules = [str(rule) for rule in self.rules]
        chosen = scored.manifest.with_columns({"kept": selection.kept, "reason": selection.reasons})
        parents = [scored.manifest.content_hash]
        kept = chosen.filter(selection.kept)

        # 1. The dataset: images, then the manifest among them.
        dataset = folder / DATASET
        dataset.mkdir()
        names = kept.table["file_name"].to_pylist()
        place_images(kept.images, names, dataset, names, "placing images")
        Manifest(kept.table, dataset, tuple(parents)).write(dataset)

        # 2. The manifest of the rejects; their images stay in place.
        chosen.filter(~selection.kept).with_parents(parents).write(folder / REJECTED)

        # 3. The report.
        place = folder / REPORT
        place.mkdir()
        write_tables(report, selection, rules, place)
        selection_plots.save_histogram(selection, self.rules, place / "histogram.png")
        sheets = {
            "kept": selection_plots.draw_kept(selection),
            "rejected": selection_plots.draw_rejected(selection, report.main_reasons),
        }
        for name, sheet in sheets.items():
            if sheet is not None:
                sheet.save(place / f"{name}.png")

        # 4. The card, with the note by which the dataset is known.
        (dataset / _CARD).mkdir()
        shown = {"histogram": f"{_CARD}/histogram.png"}
        (dataset / shown["histogram"]).write_bytes((place / "histogram.png").read_bytes())
        pairs = _nearest_pairs(scored, selection)
        if pairs is not None:
            shown["nearest_real"] = f"{_CARD}/nearest_real.png"
            pairs.save(dataset / shown["nearest_real"])
        card = self._card(kept, scored, selection, report, rules, shown)
        (dataset / "README.md").write_text(write_card(card), encoding="utf-8")
        write_json(dataset / NOTE, _describe(card))

    def _card(
        self,
        kept: Manifest,
        scored: ScoredFolder,
        selection: Selection,
        report: SelectionReport,
        rules: Sequence[str],
        shown: Mapping[str, str],
    ) -> Card:
        seeds = kept.numpy("seed")
        noises = seeds & 0xFFFFFFFF  # what torch's generator takes of a seed
        cameras: dict[str, list[int]] = {}
        for source, camera in sorted(set(zip(kept.numpy("source"), kept.numpy("camid").tolist(), strict=True))):
            cameras.setdefault(source, []).append(camera)
        return Card(
            title=self.title,
            license=self.license,
            report=report,
            rules=rules,
            sources=_count_values(kept, "source"),
            generators=_count_values(kept, "generator"),
            seeds=(int(seeds.min()), int(seeds.max()), len(np.unique(noises))),
            cameras=cameras,
            audit=_audit(scored, selection, self.near_copy),
            pictures=shown,
            scored=scored.manifest.content_hash,
            calibration=scored.calibration,
        )


def _count_values(manifest: Manifest, column: str) -> dict[str, int]:
    return dict(sorted(Counter(manifest.numpy(column)).items()))


def _audit(scored: ScoredFolder, selection: Selection, limit: float) -> Audit | None:
    if REAL_DISTANCE not in scored.manifest.columns:
        return None
    distances = scored.manifest.numpy(REAL_DISTANCE)
    measured = ~np.isnan(distances)
    before, after = distances[measured & selection.generated], distances[measured & selection.kept]
    return Audit(before, after, limit, scored.real_gap) if len(after) else None


def _nearest_pairs(scored: ScoredFolder, selection: Selection) -> Any:
    if not {REAL_DISTANCE, NEAREST} <= set(scored.manifest.columns):
        return None
    distances = np.where(selection.kept, scored.manifest.numpy(REAL_DISTANCE), np.nan)
    rows = np.argsort(distances, kind="stable")[: min(_PAIRS, int((~np.isnan(distances)).sum()))]
    return selection_plots.draw_nearest_real(scored, rows) if len(rows) else None


def _describe(card: Card) -> dict[str, Any]:
    """Return the card's numbers as plain JSON values."""
    return {
        "format": 1,
        "title": card.title,
        "images": card.report.kept,
        "identities": card.report.after.identities,
        "sources": dict(card.sources),
        "generators": dict(card.generators),
        "rules": list(card.rules),
        "scored": card.scored,
        "near_copies": None if card.audit is None else [round(share, 6) for share in card.audit.near_copies],
    }


def _log(tracker: WandbTracker, report: SelectionReport, folder: Path, rules: Sequence[SelectionRule]) -> None:
    import wandb

    tracker.log_hyperparams({"rules": [str(rule) for rule in rules]})
    numbers = {
        "kept": report.kept,
        "kept_share": report.kept_share,
        "identities": report.after.identities,
        "identities_lost": len(report.lost),
        "identities_to_regenerate": len(report.regenerate),
        "images_per_identity": report.after.median,
    }
    tracker.log_metrics({f"select/{name}": float(value) for name, value in numbers.items()}, step=0)
    with tracker.tolerate_failures():
        shown = {f"select/pictures/{file.stem}": wandb.Image(str(file)) for file in sorted(folder.glob("*.png"))}
        for file in sorted(folder.glob("*.csv")):
            table = read_csv(file)
            rows = [list(row.values()) for row in table.to_pylist()]
            shown[f"select/tables/{file.stem}"] = wandb.Table(columns=table.column_names, data=rows)
        tracker.experiment.log({**shown, "trainer/global_step": 0})
