"""A network that only averages colours, and the trainer that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffreid_lightning.data.reid import PersonBatch, ReIDDataModule
from diffreid_lightning.reid.outputs import FeatureBatch
from tests.data.layouts import write_market1501


class Colours(LightningModule):
    """Features: the image's quadrants."""

    def test_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        features = torch.nn.functional.adaptive_avg_pool2d(batch.images, 2).flatten(1)
        return FeatureBatch(features, batch.labels, batch.camids, batch.indices, batch.is_query)

    def predict_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        return self.test_step(batch, batch_idx)


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Market-1501 folder of a few people."""
    return write_market1501(
        tmp_path_factory.mktemp("data") / "market1501", train_ids=range(2, 4), cameras=(1, 2, 3, 4, 5, 6)
    )


@pytest.fixture
def data(market: Path) -> ReIDDataModule:
    """Its query and gallery in batches of four."""
    return ReIDDataModule(str(market), image_size=(16, 8), eval_batch_size=4, num_workers=0)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Make a silent trainer with the given callbacks."""

    def make(*callbacks: Callback, **kwargs: Any) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=str(tmp_path),
            callbacks=list(callbacks),
            **kwargs,
        )

    return make
