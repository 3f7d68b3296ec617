"""Find out what a folder holds, and describe it: a chain, a benchmark, a run, or the folder of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.paths import absolute_path
from diffreid_lightning.pipeline.fingerprints import RECORDS, Record
from diffreid_lightning.report.benchmark_section import describe_benchmark, is_benchmark
from diffreid_lightning.report.blocks import Block, Section, Table, Text
from diffreid_lightning.report.identity_strips import draw_strips
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_files import RunFiles, is_run, read_run
from diffreid_lightning.report.run_section import RANKED, describe_run, format_number, format_seconds
from diffreid_lightning.report.selection_section import describe_selection, is_selection
from diffreid_lightning.storage.atomic import describe_existing

_BEGUN = ".begun"
_SHEET = "Some identities, a row for each: real images left, generated ones right, with the requested attributes"


@dataclass(frozen=True)
class Subject:
    """A chain, benchmark, run or stage of the report.

    Args:
        name: short and unique.
        section: all about it.
        runs: its runs by label; the label of a single run is "".
    """

    name: str
    section: Section
    runs: Mapping[str, RunFiles]


def find_subjects(paths: Sequence[str]) -> list[Path]:
    """Return the folders to report on; a folder of runs stands for the runs in it.

    Raises:
        UserError: a folder holds nothing that can be reported on.
    """
    found: list[Path] = []
    for path in map(absolute_path, paths):
        inner = [] if _is_subject(path) else [each for each in _folders(path) if is_run(each)]
        if not inner and not _is_subject(path):
            raise UserError(
                f"There is nothing to report on in {path}",
                looked_for="a chain's --root, a run folder such as fit-001, a benchmark's --root, a folder of a stage",
                found=describe_existing(path),
                remedy="give a folder that one of these commands wrote",
            )
        found += inner or [path]
    return list(dict.fromkeys(found))


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
        return Subject(name, describe_benchmark(path, name, budget), {})
    if is_run(path):
        run = read_run(path)
        return Subject(name, describe_run(run, name, budget), {"": run})
    section, runs = describe_stage(path, name, None, True, 2, budget)
    return Subject(name, section, runs)


def name_subjects(paths: Sequence[Path]) -> list[str]:
    """Return short names of folders: so many of their last parts that all are different."""
    for count in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def order_stages(root: Path) -> dict[str, Record | None]:
    """Return the stages of a chain in the order they ended, the running ones last; None for one that has not ended."""
    records = sorted((root / RECORDS).glob("*.json"), key=lambda file: (file.stat().st_mtime, file.name))
    ended = {file.stem: Record.read(file) for file in records if not file.stem.endswith(_BEGUN)}
    begun = (file.stem.removesuffix(_BEGUN) for file in records if file.stem.endswith(_BEGUN))
    return {**ended, **{name: None for name in begun if name not in ended}}


def describe_stage(
    folder: Path, title: str, real: Manifest | None, strips: bool, level: int, budget: PictureBudget
) -> tuple[Section, dict[str, RunFiles]]:
    """Describe the folder of a stage: its runs, manifest, contact sheet or selection.

    Args:
        folder: the folder.
        title: the heading.
        real: manifest of the real images, for contact sheets, or None.
        strips: draw contact sheets of generated rows here.
        level: level of the heading.
        budget: embeds its pictures.

    Returns:
        The section, and the runs by the names of their folders; a single one under "".
    """
    try:
        if is_selection(folder):
            return describe_selection(folder, title, real, level, budget), {}
        manifest = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
    except UserError as error:
        return Section(title, [Text(error.what)]), {}
    blocks: list[Block] = []
    children: list[Section] = []
    if manifest is not None:
        blocks.append(count_rows(manifest))
    children.append(Section("Contact sheet", budget.embed_file(folder / "contact_sheet.png", _SHEET)))
    if manifest is not None and strips and "generated" in manifest.table["split"].unique().to_pylist():
        children.append(Section("Contact sheet of each identity", draw_strips([manifest], real, budget)))
    runs = {each.name: read_run(each) for each in _folders(folder) if is_run(each)}
    sections = [describe_run(run, name, budget) for name, run in runs.items()]
    if len(sections) == 1:
        blocks += sections[0].blocks
        children += sections[0].children
        runs = {"": next(iter(runs.values()))}
    else:
        children += sections
    return Section(title, blocks, [child for child in children if child]), runs


def count_rows(manifest: Manifest) -> Table:
    """Count images, identities and cameras of a manifest by split."""
    rows = []
    for split in sorted(manifest.table["split"].unique().to_pylist()):
        part = manifest.table.filter(pc.equal(manifest.table["split"], split))
        people = part.group_by(["source", "partition", "pid"]).aggregate([]).num_rows
        cameras = len(part["camid"].unique())
        rows.append((split, f"{part.num_rows:,}", f"{people:,}", f"{cameras:,}"))
    return Table("Images of the manifest", ("split", "images", "identities", "cameras"), rows)


def _describe_chain(root: Path, name: str, budget: PictureBudget) -> Subject:
    records = order_stages(root)
    total = sum(record.seconds for record in records.values() if record is not None) or 1.0
    rows = []
    for stage, record in records.items():
        state = ("running or interrupted", "–", "–")
        if record is not None:
            state = ("finished", format_seconds(record.seconds), f"{record.seconds / total:.0%}")
        rows.append((stage, *state))
    rows.append(("all", "", format_seconds(total), ""))
    chain = Table("Stages of the chain in order", ("stage", "state", "time", "share of the time"), rows)
    selected = any(is_selection(root / stage) for stage in records)
    real = _find_real(root / stage for stage in records)
    children, runs = [], {}
    for stage in records:
        section, found = describe_stage(root / stage, stage, real, not selected, 3, budget)
        children.append(section if section else Section(stage, [Text("Nothing was found in its folder.")]))
        runs.update({f"{stage} {label}".strip(): run for label, run in found.items()})
    results = [(label, *map(format_number, map(run.results.get, RANKED))) for label, run in runs.items() if run.results]
    tables = [chain, *([Table("Results of the stages in percent", ("stage", *RANKED), results)] if results else [])]
    return Subject(name, Section(name, tables, children), runs)


def _find_real(folders: Iterable[Path]) -> Manifest | None:
    """Return the first manifest of real images among stages."""
    for folder in folders:
        try:
            found = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
        except UserError:
            continue
        if found is not None and "generated" not in found.table["split"].unique().to_pylist():
            return found
    return None


def _is_subject(path: Path) -> bool:
    tests = (is_run(path), is_selection(path), (path / FILE_NAME).is_file(), (path / RECORDS).is_dir())
    return any(tests) or is_benchmark(path)


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
