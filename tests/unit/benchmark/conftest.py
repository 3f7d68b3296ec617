"""A small grid that every test of this folder may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.config_files import merge_layers

GRID: dict[str, Any] = {
    "seeds": [0, 1],
    "against": "scratch",
    "flags": "--trainer.max_epochs 2",
    "preparations": {
        "generated": {"run": "pipeline --config chains/tour --root {out} --data {labeled} --images {images}"},
        "pretrained": {"run": "fit --config stages/pretrain --data.train {generated}/select --seed_everything {seed}"},
    },
    "initializations": {
        "scratch": {"init_from": None},
        "Diff-Person": {"init_from": "{pretrained}/fit-001/backbone", "flags": "--model.drop_path_rate 0.1"},
        "ready weights": {"init_from": "timm", "made_from": ["duke"]},
    },
    "settings": {
        "supervised": {"run": "fit --config stages/transfer"},
        "few-shot 30 %": {"run": "fit --config stages/transfer", "subset": {"images": 0.3}},
        "USL": {"run": "fit --config stages/transfer", "labels": False},
        "UDA": {
            "run": "fit --config stages/transfer --model.init_from {needed}/backbone --data.train [{source},{target}]",
            "needs": "supervised@source",
        },
        "direct": {"run": "test --ckpt_path {needed}", "needs": "supervised@source"},
    },
    "datasets": {
        "market": {"path": "/data/market1501", "images": 1000},
        "duke": {"path": "/data/duke", "flags": "--data.num_workers 3", "images": 2000},
    },
}

MakeGrid = Callable[..., Grid]


@pytest.fixture
def make_grid(tmp_path: Path) -> MakeGrid:
    """Read the grid from a file, with changes laid over it; null leaves an entry out."""

    def make(changes: dict[str, Any] | None = None) -> Grid:
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump(merge_layers(GRID, changes or {}), sort_keys=False), encoding="utf-8")
        return read_grid([str(file)], str(tmp_path / "root"))

    return make
