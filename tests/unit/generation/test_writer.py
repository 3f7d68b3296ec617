"""Generated images on their way to the disk."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import pyarrow as pa
import pytest
from lightning.pytorch import LightningModule, Trainer

from diffreid_lightning.generation.writer import GeneratedImagesWriter


class Store:
    """Notes which batches it is given."""

    def __init__(self) -> None:
        self.put_in: list[int] = []

    def put(self, number: int, rows: pa.Table) -> None:
        self.put_in.append(number)

    def release(self) -> None: ...


def ended(error: Exception | None = None) -> Future[None]:
    job: Future[None] = Future()
    if error is None:
        job.set_result(None)
    else:
        job.set_exception(error)
    return job


def test_a_batch_that_cannot_be_written_does_not_cost_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, store = GeneratedImagesWriter("out"), Store()
    monkeypatch.setattr(writer, "_parts", cast(Any, store))
    rows = pa.table({"file_name": ["a.jpg"]})
    writer._queue.extend([(0, rows, [ended(OSError("disk"))]), (1, rows, [ended()]), (2, rows, [ended(), ended()])])
    writer.on_exception(cast(Trainer, None), cast(LightningModule, None), KeyboardInterrupt())
    assert store.put_in == [1, 2]
