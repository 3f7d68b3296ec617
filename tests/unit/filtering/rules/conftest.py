"""Scored tables made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diffreid_lightning.filtering.copy_search import LENGTH
from diffreid_lightning.filtering.rules import Selection
from diffreid_lightning.manifest.manifest import Manifest

MakeSelection = Callable[..., Selection]


@pytest.fixture
def scored(tmp_path: Path) -> MakeSelection:
    """Make a selection from people and their confidences; further columns by name."""

    def make(
        people: Sequence[int],
        confidences: Sequence[float | None],
        thumbnails: npt.NDArray[np.uint8] | None = None,
        **columns: Any,
    ) -> Selection:
        count = len(people)
        table: dict[str, Any] = {
            "file_name": [f"images/{row:04d}.jpg" for row in range(count)],
            "source": "market1501",
            "partition": "train",
            "pid": list(people),
            "camid": 7,
            "split": "generated",
            "role": "identity",
            "source_pid": list(people),
            "prompt": "a photo",
            "attributes": "{}",
            "seed": list(range(count)),
            "generator": "f" * 64,
            "confidence": np.asarray(confidences, dtype=object).tolist(),
        }
        manifest = Manifest.from_columns(tmp_path, table | columns)
        thumbs = np.zeros((count, LENGTH), np.uint8) if thumbnails is None else thumbnails
        return Selection(manifest, lambda: thumbs)

    return make
