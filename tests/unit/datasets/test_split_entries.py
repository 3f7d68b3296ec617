"""List files of large datasets."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from diffreid_lightning.datasets.split_entries import Placed, place
from diffreid_lightning.manifest.image_root import ImageRoot


def test_a_list_takes_memory_for_its_own_lines_only(tmp_path: Path) -> None:
    names = [f"images/train/{number // 100}/{number}.jpg" for number in range(20_000)]
    (tmp_path / "list.txt").write_text("7.jpg 3\n0/8\n./images/train/0/9.jpg, 4 5\n")
    tracemalloc.start()
    placed = place(ImageRoot(tmp_path), names, {"train": ["list.txt"]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert placed == [Placed(names[row], "train", names[row], rest) for row, rest in ((7, "3"), (8, ""), (9, "4 5"))]
    assert peak < 1 << 20
