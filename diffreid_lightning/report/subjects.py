"""Find out what a folder holds, and describe it: a chain, a benchmark, a run, or the folder of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from diffreid_lightning.durations import format_duration
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.paths import absolute_path
from diffreid_lightning.pipeline.fingerprints import RECORDS, Record
from diffreid_lightning.report.benchmark_section import describe_benchmark, is_benchmark
from diffreid_lightning.report.blocks import Section, table, text
from diffreid_lightning.report.identity_strips import draw_strips
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_files import RunFiles, is_run, read_run
from diffreid_lightning.report.run_section import METRIC_NAMES, describe_run, format_number
from diffreid_lightning.report.selection_section import describe_selection, is_selection
from diffreid_lightning.storage.atomic import describe_existing

_BEGUN = ".begun"
_SHEET = "Some identities, a row for each: real images left, generated ones right, with the requested attributes"


@dataclass(frozen=True)
class Subject:
    """A chain, benchmark, run or stage of the report.

    Args:
        section: all about it, under its name.
        runs: its runs by label; the label of a single run is "".
    """

    section: Section
    runs: Mapping[str, RunFiles]

    @property
    def name(self) -> str:
        """Return its short name."""
        return self.section.title


def find_subjects(paths: Sequence[str]) -> list[Path]:
    """Return the folders to report on; a folder of runs stands for the runs in it.

    Raises:
        UserError: a folder holds nothing that can be reported on.
    """
    found: list[Path] = []
    for path in map(absolute_path, paths):
        known = is_run(path) or is_selection(path) or is_benchmark(path)
        inner = [path] if known or (path / FILE_NAME).is_file() or (path / RECORDS).is_dir() else _runs_in(path)
        if not inner:
            raise UserError(
                f"There is nothing to report on in {path}",
                looked_for="a chain's --root, a run folder such as fit-001, a benchmark's --root, a folder of a stage",
                found=describe_existing(path),
                remedy="give a folder that one of these commands wrote",
            )
        found += inner
    return list(dict.fromkeys(found))


def name_subjects(paths: Sequence[Path]) -> list[str]:
    """Return short names of folders: so many of their last parts that all are different."""
    names = (["/".join(path.parts[-count:]) for path in paths] for count in range(1, 100))
    return next(found for found in names if len(set(found)) == len(found))


def describe_subject(path: Path, name: str, budget: PictureBudget) -> Subject:
    """Describe a folder that :func:`find_subjects` returned.

    Args:
        path: the folder.
        name: its heading.
        budget: embeds its pictures.
    """
    if (path / RECORDS).is_dir():
        return _describe_chain(path, name, budget)
    if is_benchmark(path):
        return Subject(describe_benchmark(path, name, 2, budget), {})
    if is_run(path):
        run = read_run(path)
        return Subject(describe_run(run, name, budget), {"": run})
    return describe_stage(path, name, 2, budget)


def order_stages(root: Path) -> dict[str, Record | None]:
    """Return the stages of a chain in the order they ended, the running ones last; None for one that has not ended."""
    records = sorted((root / RECORDS).glob("*.json"), key=lambda file: (file.stat().st_mtime, file.name))
    ended = {file.stem: Record.read(file) for file in records if not file.stem.endswith(_BEGUN)}
    begun = (file.stem.removesuffix(_BEGUN) for file in records if file.stem.endswith(_BEGUN))
    return {**ended, **{name: None for name in begun if name not in ended}}


def describe_stage(
    folder: Path, title: str, level: int, budget: PictureBudget, real: Manifest | None = None, strips: bool = True
) -> Subject:
    """Describe the folder of a stage: its runs, manifest, contact sheet or selection.

    Args:
        folder: the folder.
        title: the heading.
        level: its level.
        budget: embeds its pictures.
        real: manifest of the real images, for contact sheets, or None.
        strips: draw contact sheets of generated rows here.
    """
    try:
        if is_selection(folder):
            return Subject(describe_selection(folder, title, real, level, budget), {})
        manifest = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
    except UserError as error:
        return Subject(Section(title, [text(error.what)]), {})
    sheet = budget.embed_file(folder / "contact_sheet.png", _SHEET)
    blocks, children = [], [Section("Contact sheet", sheet)]
    if manifest is not None:
        blocks.append(_count_rows(manifest.table))
        if strips and _is_generated(manifest):
            children.append(Section("Contact sheet of each identity", draw_strips([manifest], real, budget)))
    runs = {path.name: read_run(path) for path in _runs_in(folder)}
    sections = [describe_run(run, name, budget) for name, run in runs.items()]
    if len(sections) == 1:
        blocks += sections[0].blocks
        children += sections[0].children
        return Subject(Section(title, blocks, children), {"": next(iter(runs.values()))})
    return Subject(Section(title, blocks, [*children, *sections]), runs)


def _count_rows(rows: pa.Table) -> Markup:
    counts = []
    for split in sorted(rows["split"].unique().to_pylist()):
        part = rows.filter(pc.equal(rows["split"], split))
        people = part.group_by(["source", "partition", "pid"]).aggregate([]).num_rows
        counts.append((split, f"{part.num_rows:,}", f"{people:,}", f"{len(part['camid'].unique()):,}"))
    return table("Images of the manifest", ("split", "images", "identities", "cameras"), counts)


def _describe_chain(root: Path, name: str, budget: PictureBudget) -> Subject:
    records = order_stages(root)
    times = [(stage, format_duration(record.seconds) if record else "not ended") for stage, record in records.items()]
    total = sum(record.seconds for record in records.values() if record is not None)
    blocks = [
        table(
            "Stages of the chain in the order in which they ended; some may have run at once",
            ("stage", "time"),
            [*times, ("sum", format_duration(total))],
        )
    ]
    selected = any(is_selection(root / stage) for stage in records)
    real = _find_real(root / stage for stage in records)
    parts = {stage: describe_stage(root / stage, stage, 3, budget, real, not selected) for stage in records}
    runs = {f"{stage} {label}".strip(): run for stage, part in parts.items() for label, run in part.runs.items()}
    results = ((label, *found) for label, run in runs.items() for found in run.results.items())
    rows = [
        (label, split, *(format_number(found.get(each)) for each in METRIC_NAMES)) for label, split, found in results
    ]
    blocks += [table("Results of the stages in percent", ("stage", "split", *METRIC_NAMES), rows)] if rows else []
    return Subject(Section(name, blocks, [part.section for part in parts.values()]), runs)


def _find_real(folders: Iterable[Path]) -> Manifest | None:
    """Return the first manifest of real images among stages."""
    for folder in folders:
        try:
            found = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
        except UserError:
            continue
        if found is not None and not _is_generated(found):
            return found
    return None


def _is_generated(manifest: Manifest) -> bool:
    return "generated" in manifest.table["split"].unique().to_pylist()


def _runs_in(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if is_run(each)) if path.is_dir() else []
