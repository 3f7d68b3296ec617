"""Show the results at the end of a run: a table on the terminal, CSV files in the run folder."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from diffreid_lightning.reid.evaluation import SPLIT_OF_STAGE, evaluator_with_result, headline
from diffreid_lightning.reid.query_table import query_file, write_queries
from diffreid_lightning.training.trainer_parts import datamodule_of

_COLUMNS = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")


class ResultsTable(Callback):
    """Print mAP, Rank-1/5/10 and mINP when an evaluation ends, and append them to ``results.csv`` in the run folder.

    ``queries_test.csv`` (``queries_val.csv``) has the average precision of each query, to look at the hardest and to
    compare two runs on the same people.

    Needs a :class:`~.evaluation.RetrievalEvaluator` beside it, which measures.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report query and gallery."""
        self._write_queries(trainer, "test")
        self._report(trainer, pl_module, "test", "query × gallery")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the queries of the held-out identities; report them when validation is the command."""
        self._write_queries(trainer, "validate")
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "validate", "held-out identities")

    def _write_queries(self, trainer: Trainer, stage: str) -> None:
        evaluator = evaluator_with_result(trainer, stage)
        if evaluator is None:
            return
        file = query_file(Path(trainer.default_root_dir), SPLIT_OF_STAGE[stage])
        file.parent.mkdir(parents=True, exist_ok=True)
        queries = evaluator.metric.last_features().query_indices.numpy()
        write_queries(file, evaluator.results[stage], datamodule_of(trainer).retrieval_set(stage).rows, queries)

    def _report(self, trainer: Trainer, pl_module: LightningModule, stage: str, what: str) -> None:
        evaluator = evaluator_with_result(trainer, stage)
        if evaluator is None:
            return
        result = evaluator.results[stage]
        folder = Path(trainer.default_root_dir)
        name = getattr(datamodule_of(trainer), "test_name", "data") if stage == "test" else "train"
        weights = _name_weights(trainer, pl_module)
        numbers = [100 * value for value in headline(result)]
        table = Table()
        for column in _COLUMNS:
            table.add_column(column, justify="right")
        table.add_row(*(f"{number:.1f}" for number in numbers))
        console = Console(highlight=False, markup=False)
        console.print(f"{name}: {what}, {len(result.ap)} valid queries, weights of {weights}")
        console.print(table)
        console.print(f"run folder: {folder}", soft_wrap=True)
        self._append(folder / "results.csv", [stage, name, weights, *(f"{number:.4f}" for number in numbers)])

    @staticmethod
    def _append(path: Path, row: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["stage", "dataset", "weights", *_COLUMNS])
            writer.writerow(row)


def _name_weights(trainer: Trainer, module: LightningModule) -> str:
    """Name the weights that were evaluated."""
    if trainer.ckpt_path is not None:
        return Path(str(trainer.ckpt_path)).name
    if trainer.global_step:
        return f"epoch {trainer.current_epoch} (the last)"
    given = None if getattr(module, "trained", True) else getattr(module, "init_from", None)
    return "the module as it is" if given is None else str(given)
