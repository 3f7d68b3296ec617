"""Estimate how long a grid takes, from the lengths of its trainings and a measured speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffreid_lightning.benchmark.grid_entries import Grid, Throughput
from diffreid_lightning.benchmark.jobs import Job, data_token, job_settings

_EPOCHS, _STEPS, _LIMIT = "trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches"
_SAMPLER = "data.init_args.sampler.init_args"
#: arguments of samplers whose product is the number of images in a batch
_SIZES = (("identities_per_batch", "images_per_identity"), ("clusters_per_batch", "images_per_cluster"))
_DEFAULT_BATCH = 64


class Estimate(NamedTuple):
    """Estimated cost of a setting, or of the pre-training of rows."""

    setting: str
    trainings: int
    images: float  #: that training draws, over those of them where it is known
    speed: Throughput | None  #: if one is known
    unknown: int = 0  #: trainings of which it is not known

    @property
    def hours(self) -> float | None:
        """Return the hours on the device of the throughput, None without one."""
        return None if self.speed is None else self.images / self.speed.images_per_second / 3600


def estimate(grid: Grid, jobs: Mapping[str, Job]) -> list[Estimate]:
    """Estimate the trainings of a grid's cells by setting, then its pre-trainings; chains are not counted.

    Args:
        grid: the grid, with a throughput and the numbers of training images.
        jobs: its jobs, or those of them that are left.
    """
    fits = [job for job in jobs.values() if job.words[0] == "fit"]
    groups = [
        (label, [job for job in fits if job.cell is not None and job.cell.setting == label], setting.throughput)
        for label, setting in grid.settings.items()
    ]
    before = [job for job in fits if job.cell is None]
    groups += [("pre-training", before, None)] if before else []
    found = []
    for label, trainings, speed in groups:
        images = [images_drawn(grid, job) for job in trainings]
        found.append(Estimate(label, len(images), sum(images), speed or grid.throughput, images.count(0)))
    return found


def images_drawn(grid: Grid, job: Job) -> float:
    """Return how many images a training draws; 0 for a test, and where it is unknown.

    An epoch has as many batches as ``limit_train_batches`` or the sampler's ``batches`` say; else it draws one image
    for each that there is. ``max_epochs`` and ``max_steps`` both end a training; -1 is no limit.
    """
    if job.words[0] != "fit":
        return 0
    settings = job_settings(job.words)
    epochs, steps = (_count(settings.get(name)) for name in (_EPOCHS, _STEPS))
    batches = next(filter(None, (_count(settings.get(name)) for name in (_LIMIT, f"{_SAMPLER}.batches"))), 0)
    size = _batch_size(settings)
    lengths = (steps * size, epochs * (batches * size or _images(grid, job)))
    return float(min(filter(None, lengths), default=0))


def _images(grid: Grid, job: Job) -> float:
    """Return the number of images that a cell trains on; 0 where that of one of its datasets is unknown."""
    if job.cell is None:
        return 0
    named = " ".join(word for word in job.words if not word.startswith("--data.test"))
    subset = grid.settings[job.cell.setting].subset
    labeled, total = job.cell.source or job.cell.dataset, 0.0
    for label, dataset in grid.datasets.items():
        if data_token(label) in named:
            share = _share(subset) if label == labeled else 1.0
            if not dataset.images or not share:
                return 0
            total += dataset.images * share
    return total


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _batch_size(settings: Mapping[str, Any]) -> int:
    for names in _SIZES:
        one, other = (settings.get(f"{_SAMPLER}.{name}") for name in names)
        if isinstance(one, int) and isinstance(other, int):
            return one * other
    return _DEFAULT_BATCH


def _share(subset: Mapping[str, Any]) -> float:
    """Return the share of the images that a subset has; 0 where it is a list, or a number of identities."""
    people, images = subset.get("identities", 1.0), subset.get("images", 1.0)
    is_share = "list_file" not in subset and isinstance(people, float) and people <= 1
    return float(people) * float(images) if is_share else 0.0
