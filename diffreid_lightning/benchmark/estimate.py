"""Estimate how long a grid takes, from the lengths of its trainings and a measured speed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.jobs import Job
from diffreid_lightning.config_files import load_layers, merge_layers, split_config_flags
from diffreid_lightning.storage.yaml_files import parse_yaml

_DEFAULT_BATCH = 64  # images: 16 identities, 4 images of each
_EPOCHS, _BATCHES = "trainer.max_epochs", "trainer.limit_train_batches"
_SAMPLER = "data.init_args.sampler.init_args"


class Estimate(NamedTuple):
    """Estimated cost of a setting."""

    setting: str
    cells: int
    images: float  #: that training draws, over all cells
    hours: float | None  #: on the device of the throughput; None where no throughput is known


def estimate(grid: Grid, jobs: Mapping[str, Job]) -> list[Estimate]:
    """Estimate the trainings of a grid's cells by setting; preparations are not counted.

    Args:
        grid: the grid, with a throughput and the numbers of training images.
        jobs: its jobs, or those of them that are left.
    """
    found = []
    for setting in grid.settings.values():
        cells = [job for job in jobs.values() if job.cell is not None and job.cell.setting == setting.label]
        images = sum(images_drawn(grid, job) for job in cells)
        speed = setting.throughput or grid.throughput
        hours = None if speed is None else images / speed.images_per_second / 3600
        found.append(Estimate(setting.label, len(cells), images, hours))
    return found


def images_drawn(grid: Grid, job: Job) -> float:
    """Return how many images the training of a cell draws; 0 for a test, and where the number of images is unknown.

    An epoch has as many as ``limit_train_batches`` says where that is a whole number, else one for each image.
    """
    if job.cell is None or job.words[0] != "fit":
        return 0
    settings = settings_of(job.words)
    epochs, batches = settings.get(_EPOCHS), settings.get(_BATCHES)
    if not isinstance(epochs, int):
        return 0
    if isinstance(batches, int) and not isinstance(batches, bool):
        sampler = [settings.get(f"{_SAMPLER}.{name}") for name in ("identities_per_batch", "images_per_identity")]
        size = sampler[0] * sampler[1] if all(isinstance(n, int) for n in sampler) else _DEFAULT_BATCH  # type: ignore
        return float(epochs * batches * size)
    subset = grid.settings[job.cell.setting].subset
    share = _share(subset.get("identities")) * _share(subset.get("images"))
    return epochs * (grid.datasets[job.cell.dataset].images or 0) * share


def _share(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else 1.0


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command that are written in its configs and flags, by dotted name.

    Args:
        words: the command; a flag without ``=`` has its value in the next word.
    """
    names, rest = split_config_flags(words)
    nothing: dict[str, Any] = {}
    found = dict(_leaves(functools.reduce(merge_layers, load_layers(words[0], names), nothing)))
    for word, following in zip(rest, [*rest[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            name = flag.removeprefix("--")
            for section in ("data", "model"):
                if name.startswith(f"{section}.") and not name.startswith(f"{section}.init_args."):
                    name = f"{section}.init_args.{name.removeprefix(f'{section}.')}"
            found[name] = _plain(value if equals else following)
    return found


def _leaves(node: Any, key: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        return [(key, node)]
    return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}".lstrip("."))]


def _plain(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return text
