from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.metrics import RetrievalMetrics, RetrievalResult
from diffreid_lightning.metrics.functional import (
    k_reciprocal_rerank,
    retrieval_metrics,
    retrieval_metrics_from_distances,
)
from tests.fixtures.command_process import FORKED
from tests.fixtures.retrieval_cases import Case, exact_case, random_case


def as_table(case: Case) -> dict[str, Tensor]:
    """Query and gallery images in one table, gallery first: a metric must not rely on their order."""
    count, queries = len(case.query_pids) + len(case.gallery_pids), len(case.query_pids)
    return {
        "features": torch.cat([case.gallery_features, case.query_features]),
        "pids": torch.cat([case.gallery_pids, case.query_pids]),
        "camids": torch.cat([case.gallery_camids, case.query_camids]),
        "is_query": torch.arange(count) >= count - queries,
        "indices": torch.arange(count),
    }


def update(metric: RetrievalMetrics, table: dict[str, Tensor], rows: Tensor, batch_size: int = 32) -> None:
    for batch in rows.split(batch_size):
        metric.update(**{name: values[batch] for name, values in table.items()})


def filled(case: Case, **options: Any) -> RetrievalMetrics:
    metric = RetrievalMetrics(**options)
    update(metric, as_table(case), torch.arange(len(case.query_pids) + len(case.gallery_pids)))
    return metric


def as_dict(result: RetrievalResult) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def assert_same(result: RetrievalResult, other: RetrievalResult) -> None:
    torch.testing.assert_close(as_dict(result), as_dict(other), rtol=0, atol=0)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equals_the_function(distance: Any) -> None:
    case = random_case(0)
    result = filled(case, distance=distance, max_rank=7).compute()
    assert_same(result, retrieval_metrics(*case.all, distance=distance, max_rank=7))


def test_equals_the_functions_with_reranking() -> None:
    case = random_case(1)
    expected = retrieval_metrics_from_distances(k_reciprocal_rerank(*case.features), *case.ids)
    assert_same(filled(case, rerank=True).compute(), expected)


def test_images_come_in_any_order_and_more_than_once() -> None:
    case = exact_case(2)  # tied all over: the gallery's order decides
    table = as_table(case)
    metric = RetrievalMetrics()
    order = torch.randperm(190, generator=torch.Generator().manual_seed(0))
    update(metric, table, torch.cat([order, order[:50]]), batch_size=17)
    assert_same(metric.compute(), retrieval_metrics(*case.all))
    gathered = metric.last_features()
    assert torch.equal(gathered.gallery_features, case.gallery_features)
    assert torch.equal(gathered.query_features, case.query_features)
    assert torch.equal(gathered.gallery_indices, torch.arange(150))
    assert torch.equal(gathered.query_indices, torch.arange(150, 190))
    for mine, theirs in zip(
        (gathered.query_pids, gathered.gallery_pids, gathered.query_camids, gathered.gallery_camids),
        case.ids,
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_a_result_of_one_query_keeps_its_shape() -> None:
    metric = filled(random_case(3, queries=1, people=1), max_rank=1)
    result = metric.compute()
    assert result.ap.shape == result.cmc.shape == (1,)
    assert metric.compute() is result  # cached


def test_is_pickled_cloned_and_moved() -> None:
    metric = filled(random_case(4))
    expected = metric.compute()
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone(), metric.to("cpu")):
        assert_same(copy.compute(), expected)
        assert copy.last_features().query_indices.shape == (30,)
    waiting = pickle.loads(pickle.dumps(filled(random_case(4))))
    assert_same(waiting.compute(), expected)


def test_reset_and_update_discard_what_was_gathered() -> None:
    metric = filled(random_case(5))
    with pytest.raises(RunError, match="No features are gathered"):
        metric.last_features()
    first = metric.compute()
    metric.reset()
    with pytest.raises(RunError, match="call compute"):
        metric.last_features()
    with pytest.warns(UserWarning, match="before the ``update`` method"), pytest.raises(UserError, match="nothing to"):
        metric.compute()
    case = random_case(6)
    update(metric, as_table(case), torch.arange(160))
    again = metric.compute()
    assert_same(again, retrieval_metrics(*case.all))
    assert again.mAP != first.mAP


def test_state_is_a_copy_on_the_cpu_in_float32() -> None:
    case = random_case(7)
    table = as_table(case)
    table["features"] = table["features"].requires_grad_()
    metric = RetrievalMetrics()
    update(metric, table, torch.arange(160))
    with torch.no_grad():
        table["features"].zero_()
    assert all(part.dtype == torch.float32 and not part.requires_grad for part in metric.features)
    assert_same(metric.compute(), retrieval_metrics(*case.all))


@torch.inference_mode()
def test_runs_in_inference_mode() -> None:
    case = random_case(11)
    assert_same(filled(case).compute(), retrieval_metrics(*case.all))
    assert filled(case, rerank=True).compute().mAP > 0


def test_two_tables_numbered_from_zero_are_refused() -> None:
    table = as_table(random_case(8))
    table["indices"] = torch.cat([torch.arange(130), torch.arange(30)])
    metric = RetrievalMetrics()
    update(metric, table, torch.arange(160))
    with pytest.raises(UserError, match="Different images share the index 0"):
        metric.compute()


def test_unusable_arguments_are_refused() -> None:
    table = as_table(random_case(9))
    with pytest.raises(UserError, match=r"one id of each kind per row"):
        RetrievalMetrics().update(**{**table, "pids": table["pids"][:-1]})
    with pytest.raises(UserError, match="There is no distance"):
        RetrievalMetrics(distance="dot")
    with pytest.raises(UserError, match="max_rank"):
        RetrievalMetrics(max_rank=0)
    with pytest.raises(UserError, match="Re-ranking requires cosine"):
        RetrievalMetrics(distance="euclidean", rerank=True)


def evaluate_in_a_process(rank: int, folder: str) -> None:
    """One of two processes: evaluate two share-outs of the same images, the second all on the first process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        case = exact_case(10)
        table, everyone = as_table(case), torch.arange(190)
        padded = torch.cat([everyone, everyone[:7]])[: 2 * 96 + 1]  # what a distributed sampler does to fill a round
        metric = RetrievalMetrics()
        update(metric, table, padded[rank::2])
        shared = metric.compute()
        counts = len(metric.last_features().query_pids), len(metric.last_features().gallery_pids)
        local = sum(len(part) for part in metric.indices)
        metric.reset()
        if rank == 0:
            update(metric, table, everyone)
        alone = metric.compute()
        torch.save(
            {"shared": as_dict(shared), "alone": as_dict(alone), "counts": counts, "local": local},
            Path(folder) / f"{rank}.pt",
        )
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        evaluate_in_a_process, args=(str(tmp_path),), nprocs=2, start_method=FORKED.get_start_method()
    )
    expected = as_dict(retrieval_metrics(*exact_case(10).all))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["shared"], expected, rtol=0, atol=0)
        torch.testing.assert_close(found["alone"], expected, rtol=0, atol=0)
        assert found["counts"] == (40, 150)
        assert found["local"] == (97, 96)[rank]  # the local states are back after compute
