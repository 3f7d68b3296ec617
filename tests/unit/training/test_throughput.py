"""Images and memory of a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from diffreid_lightning.training import throughput
from diffreid_lightning.training.throughput import Throughput, batch_size, peak_memory


class Batch(NamedTuple):
    name: str
    images: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "images"),
    [
        (torch.zeros(5, 3), 5),
        (Batch("train", torch.zeros(4, 3, 8, 4)), 4),
        ({"real": [torch.zeros(3, 2)], "prior": torch.zeros(7)}, 3),
        ((torch.tensor(1.0), torch.zeros(2)), 2),
        (("a", None), 0),
    ],
)
def test_images_are_counted_by_the_first_tensor(batch: Any, images: int) -> None:
    assert batch_size(batch) == images


def test_the_first_batch_starts_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 14.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(times))
    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    counted = Throughput()
    for _ in range(3):
        counted.count(6)
    measured = counted.measure(trainer)
    assert measured["fit/images_per_second"] == 2 * 12 / 4
    assert measured["fit/peak_memory_gib"] > 0.05
    assert set(Throughput().measure(trainer)) == {"fit/peak_memory_gib"}


def test_memory_counts_what_is_held() -> None:
    held = torch.ones(64 << 20)  # 256 MiB
    found = peak_memory(torch.device("cpu"))
    assert found is not None and found > held.nbytes
