"""Measure the time, memory and disk space of a rehearsal, and extrapolate them to the full run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from diffreid_lightning.pipeline.fingerprints import Record, record_file
from diffreid_lightning.pipeline.graph import PREVIOUS, Stage
from diffreid_lightning.pipeline.rehearsal import GENERATE, Rehearsal
from diffreid_lightning.run_summary import RunSummary, sound_summary

_PER_IMAGE = (".jpg", ".npy", ".parquet")  # files that grow with the images; other files of a stage do not
_CACHE = "cache"  # folder of the real images' latents and the prior images, as the stages' configs name it


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage.

    Args:
        name: the stage.
        seconds: how long it took.
        images: number of images that its time depends on.
        scales_with: ``real`` or ``generated`` images.
        per_image: seconds per image, without the start of the command where that is known; None for a stage that runs
            no trainer, whose time hardly depends on them.
        full_seconds: extrapolated to the full run.
        peak_gib: peak memory of its process, on its GPU if it has one; None where it was not recorded.
        gpu_gib: memory of that GPU; None without one.
        epochs: epochs of a training, else 0.
    """

    name: str
    seconds: float
    images: int
    scales_with: str
    per_image: float | None
    full_seconds: float
    peak_gib: float | None
    gpu_gib: float | None
    epochs: int


@dataclass(frozen=True)
class Disk:
    """Disk space of the outputs, in bytes.

    Args:
        used: of the rehearsal.
        full: extrapolated to the full run, up to the selection.
    """

    used: int
    full: int


def measure_stages(rehearsal: Rehearsal) -> list[StageCost]:
    """Measure the stages that have ended, in order."""
    return [
        _measure(rehearsal, stage, record)
        for stage in rehearsal.chain.stages
        if (record := Record.read(record_file(rehearsal.chain.root, stage.name))) is not None
    ]


def measure_disk(rehearsal: Rehearsal) -> Disk:
    """Measure the outputs; a file with several names counts once."""
    root = rehearsal.chain.root
    after = _after_generation(rehearsal.chain.stages)
    seen: set[tuple[int, int]] = set()
    constant, real, generated = 0, 0, 0
    for file in sorted(root.rglob("*")):
        place, status = file.relative_to(root).parts[0], file.lstat()
        if place == PREVIOUS or not file.is_file() or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if place in after and file.suffix in _PER_IMAGE:
            generated += status.st_size
        elif place == _CACHE:
            real += status.st_size
        else:
            constant += status.st_size
    part, full = rehearsal.part, rehearsal.full
    extrapolated = constant + real * full.real / part.real + generated * full.generated / part.generated
    return Disk(constant + real + generated, round(extrapolated))


def _measure(rehearsal: Rehearsal, stage: Stage, record: Record) -> StageCost:
    part, full = rehearsal.part, rehearsal.full
    on_generated = stage.name in _after_generation(rehearsal.chain.stages)
    images, all_images = (part.generated, full.generated) if on_generated else (part.real, full.real)
    folder = rehearsal.chain.root / stage.name
    summaries = _summaries(folder, stage)
    device = summaries[-1].device if summaries else {}
    per_image, full_seconds = None, record.seconds
    if stage.words[0] in ("fit", "predict"):
        # The start of a command does not grow. What an interrupted run has spent on it is not known.
        whole = len(list(folder.glob(f"{stage.words[0]}-*"))) == 1 and [each.attempt for each in summaries] == [1]
        growing = min(record.seconds, sum(summaries[0].seconds.values())) if whole else record.seconds
        per_image = growing / images
        full_seconds += per_image * (all_images - images)
    return StageCost(
        name=stage.name,
        seconds=record.seconds,
        images=images,
        scales_with="generated" if on_generated else "real",
        per_image=per_image,
        full_seconds=full_seconds,
        peak_gib=device.get("peak_memory_gib"),
        gpu_gib=device.get("memory_gib"),
        epochs=summaries[-1].epochs if summaries else 0,
    )


def _summaries(folder: Path, stage: Stage) -> list[RunSummary]:
    """Return the summaries of a stage's runs; damaged ones are passed over."""
    found = map(sound_summary, sorted(folder.glob(f"{stage.words[0]}-*")))
    return [summary for summary in found if summary is not None]


def _after_generation(stages: Collection[Stage]) -> set[str]:
    """Return generation and the stages that go back to it."""
    found = {GENERATE}
    for stage in stages:
        if found & set(stage.reads):
            found.add(stage.name)
    return found
