"""Pictures reach TensorBoard; a logger of scalars alone is no obstacle."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.command_line import TINY

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(file: Path) -> Iterator[Any]:
    """Read a file of TensorBoard's: records of a length, a checksum, an event and a checksum."""
    content = file.read_bytes()
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


def test_tensorboard_shows_curves_and_rank_lists(command: Callable[..., int], market: Path, tmp_path: Path) -> None:
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=."]
    assert command("fit", f"--data.train={market}", *TINY, "--trainer.max_epochs=1", *logger) == 0
    run = tmp_path / "runs/reid/fit-001"
    values = [value for file in run.rglob("events.out.*") for event in events(file) for value in event.summary.value]
    assert "test/mAP" in {value.tag for value in values}
    (shown,) = (value.image for value in values if value.tag == "test/rank_lists")
    with Image.open(io.BytesIO(shown.encoded_image_string)) as logged, Image.open(run / "rank_lists_test.png") as drawn:
        assert logged.size == drawn.size
        assert logged.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
