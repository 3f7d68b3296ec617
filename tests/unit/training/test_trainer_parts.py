"""What is read of a trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from diffreid_lightning.datasets.samplers import ShuffledRows
from diffreid_lightning.training.trainer_parts import start_at_epoch


@pytest.mark.parametrize(("restored", "loaded", "epoch"), [(0, 0, 0), (3, 0, 3), (0, 3, 3)])
def test_a_loader_that_is_made_early_begins_at_the_epoch_of_the_checkpoint(
    restored: int, loaded: int, epoch: int
) -> None:
    """A schedule of steps asks for their number before Lightning restores its own progress."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=restored))
    checkpoint = {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": loaded}}}}} if loaded else {}
    trainer: Any = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_progress=progress),
        _checkpoint_connector=SimpleNamespace(_loaded_checkpoint=checkpoint),
    )
    assert start_at_epoch(ShuffledRows(4, 2), trainer).epoch == epoch
