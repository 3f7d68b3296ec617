"""Draw rank lists: a query, its ten nearest gallery images, right ones framed green and wrong ones red."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from rich.console import Console

from diffreid_lightning.errors import check_range
from diffreid_lightning.metrics.functional import rank_list
from diffreid_lightning.picture_logging import log_picture
from diffreid_lightning.reid.evaluation import RetrievalEvaluator, evaluator_with_result
from diffreid_lightning.reid.person_images import PersonImages
from diffreid_lightning.tracking import tolerate_failures
from diffreid_lightning.training.trainer_parts import datamodule_of
from diffreid_lightning.visualization.grid import RIGHT, WRONG, Cell, GridRow, cell_size, draw_grid, frame_image, spread

_QUERY = (60, 60, 60)
_HEIGHT = 128


@dataclass(frozen=True)
class RankRow:
    """One query's list.

    Args:
        query: row of the query in the evaluated set.
        average_precision: its AP, 0 to 1.
        gallery: rows of the nearest gallery images, best first.
        correct: which of them show the query's person.
    """

    query: int
    average_precision: float
    gallery: list[int]
    correct: list[bool]


def choose_queries(average_precisions: np.ndarray, count: int) -> np.ndarray:
    """Choose queries evenly over the range of AP, the worst and the best among them, worst first.

    Args:
        average_precisions: (Q,) AP of the valid queries.
        count: how many to choose, at most Q.

    Returns:
        (count,) positions in ``average_precisions``.
    """
    order = np.argsort(average_precisions, kind="stable")
    return order[spread(len(order), count)]


def draw_rank_lists(rows: list[RankRow], images: PersonImages) -> Image.Image:
    """Draw rank lists one below the other: query | nearest gallery images, each 128 pixels high."""
    lines = [
        GridRow(
            title=f"AP {100 * row.average_precision:.0f} %",
            left=[Cell(images.picture(row.query), _QUERY)],
            right=[
                Cell(images.picture(index), RIGHT if right else WRONG)
                for index, right in zip(row.gallery, row.correct, strict=True)
            ],
        )
        for row in rows
    ]
    headings = ("query", "nearest gallery images: right green, wrong red")
    return draw_grid(lines, cell_size(_HEIGHT, images.image_size), headings)


class RankLists(Callback):
    """Draw rank lists into the run folder and log them to W&B as a table, evenly over the range of AP.

    The order is that of the features' distance, before any re-ranking. Tests always draw; of the validations the first
    one after every ``every_n_epochs`` epochs. Needs a :class:`~.evaluation.RetrievalEvaluator` beside it.

    Args:
        queries: how many queries are shown.
        top_k: how many gallery images each.
        every_n_epochs: epochs between the validations that are drawn; 0 draws none.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, queries: int = 8, top_k: int = 10, every_n_epochs: int = 10) -> None:
        check_range("RankLists.queries", queries, 1, 1000)
        check_range("RankLists.top_k", top_k, 1, 1000)
        check_range("RankLists.every_n_epochs", every_n_epochs)
        self.queries = queries
        self.top_k = top_k
        self.every_n_epochs = every_n_epochs

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the held-out identities now and then."""
        if not trainer.sanity_checking and (trainer.state.fn == "validate" or self._is_due(trainer)):
            self._report(trainer, "validate", "val")

    def _is_due(self, trainer: Trainer) -> bool:
        """Return true if a period has ended since the last validation."""
        # By the numbers alone: a resumed run draws alike.
        if not self.every_n_epochs:
            return False
        finished, between = trainer.current_epoch + 1, trainer.check_val_every_n_epoch
        if between is None:  # validations are counted in batches
            between = max(1, math.ceil((trainer.val_check_batch or 1) / trainer.num_training_batches))
        return finished // self.every_n_epochs > max(0, finished - between) // self.every_n_epochs

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw query and gallery."""
        self._report(trainer, "test", "test")

    def _report(self, trainer: Trainer, stage: str, name: str) -> None:
        evaluator = evaluator_with_result(trainer, stage)
        if evaluator is None:
            return
        images = datamodule_of(trainer).retrieval_set(stage)
        rows = self.rows(evaluator, stage)
        path = Path(trainer.default_root_dir) / f"rank_lists_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = draw_rank_lists(rows, images)
        picture.save(path)
        if trainer.state.fn != TrainerFn.FITTING:
            Console().print(f"rank lists: {path}", soft_wrap=True, highlight=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Images pass through files of W&B's own before the table is logged: both can fail.
                with tolerate_failures(logger):
                    self._log_table(logger, f"{name}/rank_lists", rows, images, trainer.global_step)
            else:
                log_picture(trainer, f"{name}/rank_lists", picture, [logger])

    def rows(self, evaluator: RetrievalEvaluator, stage: str) -> list[RankRow]:
        """Rank the gallery for the chosen queries of the evaluator's latest features, by its distance."""
        result, seen = evaluator.results[stage], evaluator.metric.last_features()
        chosen = choose_queries(result.ap.numpy(), self.queries)
        queries = result.valid[torch.from_numpy(chosen)]
        nearest = rank_list(
            seen.query_features[queries],
            seen.gallery_features,
            seen.query_pids[queries],
            seen.gallery_pids,
            seen.query_camids[queries],
            seen.gallery_camids,
            distance=evaluator.distance,
            top_k=self.top_k,
        )
        rows = []
        for line, position in enumerate(chosen.tolist()):
            present = nearest.indices[line] >= 0
            rows.append(
                RankRow(
                    query=int(seen.query_indices[queries[line]]),
                    average_precision=float(result.ap[position]),
                    gallery=seen.gallery_indices[nearest.indices[line][present]].tolist(),
                    correct=nearest.matches[line][present].tolist(),
                )
            )
        return rows

    def _log_table(self, logger: WandbLogger, key: str, rows: list[RankRow], images: PersonImages, step: int) -> None:
        import wandb

        columns = ["query", "AP", *(f"top {rank + 1}" for rank in range(max(len(row.gallery) for row in rows)))]
        size = (images.image_size[1], images.image_size[0])
        table = wandb.Table(columns=columns)
        for row in rows:
            cells = [
                wandb.Image(frame_image(images.picture(index), size, RIGHT if right else WRONG))
                for index, right in zip(row.gallery, row.correct, strict=True)
            ]
            cells += [None] * (len(columns) - 2 - len(cells))
            table.add_data(
                wandb.Image(frame_image(images.picture(row.query), size, _QUERY)), row.average_precision, *cells
            )
        logger.experiment.log({key: table, "trainer/global_step": step})
