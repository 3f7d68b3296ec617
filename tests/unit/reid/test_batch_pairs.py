"""Batches in which losses between images have nothing to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from diffreid_lightning.datasets.samplers import PKSampler
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.base import ReIDModule
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.losses import BatchHardTriplet, ClusterMemory, LabelSmoothedCrossEntropy
from diffreid_lightning.reid.supervised import SupervisedReID
from diffreid_lightning.unsupervised.cluster_sampler import ClusterSampler
from diffreid_lightning.unsupervised.clusterers.kmeans import KMeans
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule
from diffreid_lightning.unsupervised.mutual_teaching import MutualMeanTeaching
from tests.fixtures.dataset_layouts import write_market1501

SIZE = (64, 32)


def fit(module: ReIDModule, data: ReIDDataModule, folder: Path) -> Trainer:
    """Train for a step."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize(("people", "images"), [(4, 1), (1, 4), (2, 2)])
def test_a_batch_without_pairs_is_refused(people: int, images: int, tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 8))
    data = ReIDDataModule(
        str(root),
        image_size=SIZE,
        val_share=0.0,
        num_workers=0,
        sampler=lambda labels: PKSampler(labels, people, images),
    )
    module = SupervisedReID("test_resnet", image_size=SIZE)
    if people > 1 < images:
        assert fit(module, data, tmp_path).global_step == 1
        return
    few = "images_per_identity" if images == 1 else "identities_per_batch"
    with pytest.raises(UserError, match=rf"(?s)BatchHardTriplet.*--data\.sampler\.{few} 2"):
        fit(module, data, tmp_path)
    weightless = [LabelSmoothedCrossEntropy(), BatchHardTriplet(weight=0.0)]
    assert fit(SupervisedReID("test_resnet", image_size=SIZE, losses=weightless), data, tmp_path).global_step == 1


@pytest.mark.parametrize("weight", [0.8, 0.0])
def test_soft_triplets_compare_images_as_well(weight: float, tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 8))
    sampler: Any = lambda labels: ClusterSampler(labels, 4, 1, batches=1)  # noqa: E731
    data = UnlabeledDataModule(str(root), image_size=SIZE, num_workers=0, sampler=sampler)
    module = MutualMeanTeaching(
        "test_resnet", image_size=SIZE, soft_triplet=weight, losses=[ClusterMemory()], clusterer=KMeans(clusters=4)
    )
    if not weight:
        assert fit(module, data, tmp_path).global_step == 1
        return
    with pytest.raises(UserError, match=r"(?s)soft_triplet.*data\.sampler\.images_per_cluster 1"):
        fit(module, data, tmp_path)
