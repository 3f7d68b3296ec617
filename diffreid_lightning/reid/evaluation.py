"""Retrieval evaluation beside the module: features in, mAP, mINP and Rank-k out."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.metrics import RetrievalMetrics
from diffreid_lightning.metrics.functional import RetrievalResult
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.outputs import FeatureBatch
from diffreid_lightning.training.trainer_parts import callbacks_of, datamodule_of, require_datamodule

SPLIT_OF_STAGE = {"validate": "val", "test": "test"}
_LOGGED = ("mAP", "rank1", "rank5", "rank10", "mINP")


class RetrievalEvaluator(Callback):
    """Collect the features of ``validation_step`` and ``test_step``, evaluate once per epoch, log the numbers.

    Logged as ``val/mAP``, ``val/rank1``, ``val/rank5``, ``val/rank10``, ``val/mINP`` and the same under ``test/``, in
    percent; every process logs the same number. An epoch that did not see every image of the set (limited batches)
    logs a warning in place of numbers: mAP over part of a gallery is another number.

    Args:
        distance: ``cosine`` or ``euclidean``.
        rerank: k-reciprocal re-ranking (Zhong et al., CVPR 2017) before the evaluation.
        max_rank: length of the CMC curve; at least 10, which is the last rank that is logged.

    Raises:
        UserError: an argument outside its range, or ``rerank`` with a distance other than cosine.
    """

    def __init__(
        self, distance: Literal["cosine", "euclidean"] = "cosine", rerank: bool = False, max_rank: int = 50
    ) -> None:
        check_range("RetrievalEvaluator.max_rank", max_rank, 10, 1_000_000)
        self.distance: Literal["cosine", "euclidean"] = distance
        self.metric = RetrievalMetrics(distance=distance, rerank=rerank, max_rank=max_rank)
        #: the latest result of each stage, ``validate`` and ``test``
        self.results: dict[str, RetrievalResult] = {}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that a validation logs."""
        return tuple(f"{SPLIT_OF_STAGE['validate']}/{name}" for name in _LOGGED)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was collected before.

        Raises:
            UserError: the data have no retrieval set.
        """
        require_retrieval_set(trainer, type(self).__name__)
        self.metric.to(pl_module.device).reset()
        self.results.pop(_stage(trainer), None)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the features of a batch.

        Raises:
            UserError: the module's step returns something else.
        """
        if not isinstance(outputs, FeatureBatch):
            raise UserError(
                f"{type(pl_module).__name__} cannot be evaluated: its validation or test step returns no features.",
                looked_for="reid.outputs.FeatureBatch",
                found=type(outputs).__name__,
                remedy="return one, as reid.base.ReIDModule does; or leave RetrievalEvaluator out of trainer.callbacks",
            )
        self.metric.update(outputs.features, outputs.labels, outputs.camids, outputs.is_query, outputs.indices)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log."""
        stage = _stage(trainer)
        if trainer.sanity_checking or not self._complete(trainer, pl_module, stage):
            return
        result = self.metric.compute()
        self.results[stage] = result
        prefix = SPLIT_OF_STAGE[stage]
        for name, value in zip(_LOGGED, headline(result), strict=True):
            pl_module.log(f"{prefix}/{name}", 100 * value, prog_bar=name in ("mAP", "rank1"), rank_zero_only=False)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _complete(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> bool:
        """Tell whether the processes together saw every image, before the metric meets a set without matches."""
        images = datamodule_of(trainer).retrieval_set(stage)
        if images is None:
            return False
        times_seen = torch.zeros(len(images), dtype=torch.int32)
        for indices in self.metric.indices:
            times_seen[indices] = 1
        # A distributed sampler may give a row to two processes: summed by row, it still counts once, and every
        # process comes to the same answer.
        total = trainer.strategy.reduce(times_seen.to(pl_module.device), reduce_op="sum")
        seen = int(torch.as_tensor(total).count_nonzero())
        if seen == len(images):
            return True
        rank_zero_warn(
            f"Only {seen} of {len(images)} images of the {SPLIT_OF_STAGE[stage]} set were seen (limited batches): "
            "mAP and Rank-k are left out."
        )
        return False


def headline(result: RetrievalResult) -> tuple[float, ...]:
    """Return the numbers that are reported: mAP, rank 1, 5 and 10, mINP, each from 0 to 1."""
    return result.mAP, result.rank(1), result.rank(5), result.rank(10), result.mINP


def require_retrieval_set(trainer: Trainer, reader: str) -> None:
    """Refuse data without query and gallery before their features are computed.

    Raises:
        UserError: the trainer was given dataloaders, or a DataModule of another kind.
    """
    if not hasattr(datamodule_of(trainer), "retrieval_set"):
        remedy = f"use --data {ReIDDataModule.__name__}, or leave {reader} out of trainer.callbacks"
        require_datamodule(trainer, ReIDDataModule, reader, remedy)


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "validate"


def evaluator_with_result(trainer: Trainer, stage: str) -> RetrievalEvaluator | None:
    """Return the evaluator for callbacks that report what it measured; None on other processes than the main one.

    Args:
        trainer: the trainer.
        stage: ``validate`` or ``test``; None is returned as long as it has no result.
    """
    found = next((c for c in callbacks_of(trainer) if isinstance(c, RetrievalEvaluator)), None)
    return found if found is not None and stage in found.results and trainer.is_global_zero else None
