"""Estimate how long a grid takes, from the lengths of its trainings and a measured speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffreid_lightning.benchmark.grid_entries import Grid, Throughput
from diffreid_lightning.benchmark.jobs import Job, job_settings

_EPOCHS, _LIMIT = "trainer.max_epochs", "trainer.limit_train_batches"
_SAMPLER = "data.init_args.sampler.init_args"
#: arguments of samplers whose product is the number of images in a batch
_SIZES = (("identities_per_batch", "images_per_identity"), ("clusters_per_batch", "images_per_cluster"))
_DEFAULT_BATCH = 64


class Estimate(NamedTuple):
    """Estimated cost of a setting, or of the pre-training of rows."""

    setting: str
    trainings: int
    images: float  #: that training draws, over all of them
    speed: Throughput | None  #: if one is known

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
    return [
        Estimate(label, len(trainings), sum(images_drawn(grid, job) for job in trainings), speed or grid.throughput)
        for label, trainings, speed in groups
    ]


def images_drawn(grid: Grid, job: Job) -> float:
    """Return how many images a training draws; 0 for a test, and where the number of images is unknown.

    An epoch has as many batches as ``limit_train_batches`` or the sampler's ``batches`` say; else it draws one image
    for each that there is.
    """
    if job.words[0] != "fit":
        return 0
    settings = job_settings(job.words)
    epochs = settings.get(_EPOCHS)
    if not isinstance(epochs, int):
        return 0
    for batches in (settings.get(_LIMIT), settings.get(f"{_SAMPLER}.batches")):
        if isinstance(batches, int) and not isinstance(batches, bool):
            return float(epochs * batches * _batch_size(settings))
    if job.cell is None:
        return 0
    subset = grid.settings[job.cell.setting].subset
    share = _share(subset.get("identities")) * _share(subset.get("images"))
    return epochs * (grid.datasets[job.cell.dataset].images or 0) * share


def _batch_size(settings: Mapping[str, Any]) -> int:
    for names in _SIZES:
        one, other = (settings.get(f"{_SAMPLER}.{name}") for name in names)
        if isinstance(one, int) and isinstance(other, int):
            return one * other
    return _DEFAULT_BATCH


def _share(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else 1.0
