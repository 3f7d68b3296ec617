"""The memory of clusters against loops over its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffreid_lightning.reid.losses import ClusterMemory, cluster_memory_loss, update_memory
from diffreid_lightning.reid.outputs import ReIDOutputs


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A memory of 5 clusters in 7 dimensions, 12 embeddings, their clusters: three are drawn, unevenly."""
    generator = torch.Generator().manual_seed(0)
    memory = torch.nn.functional.normalize(torch.randn(5, 7, generator=generator))
    labels = torch.tensor([3, 0, 3, 3, 1, 0, 3, 1, 0, 3, 0, 1])
    return memory, 3 * torch.randn(12, 7, generator=generator), labels


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_mean_of_minus_the_log_of_the_softmax(drawn: tuple[torch.Tensor, ...], weighted: bool) -> None:
    memory, embeddings, labels = drawn
    weights = torch.arange(12.0) if weighted else torch.ones(12)
    losses = []
    for row, label in zip(embeddings.double().numpy(), labels.tolist(), strict=True):
        scores = np.array([unit(row) @ vector for vector in memory.double().numpy()]) / 0.07
        losses.append(-np.log(np.exp(scores[label]) / np.exp(scores).sum()))
    expected = np.average(losses, weights=weights.numpy())
    found = cluster_memory_loss(embeddings, labels, memory, temperature=0.07, weights=weights if weighted else None)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def moved(
    memory: torch.Tensor, embeddings: torch.Tensor, labels: torch.Tensor, rule: str, momentum: float
) -> np.ndarray:
    """Update a memory by loops."""
    result, units = memory.double().numpy().copy(), [unit(row) for row in embeddings.double().numpy()]
    if rule == "each":
        for row, label in zip(units, labels.tolist(), strict=True):
            result[label] = unit(momentum * result[label] + (1 - momentum) * row)
        return result
    for label in set(labels.tolist()):
        own = [row for row, other in zip(units, labels.tolist(), strict=True) if other == label]
        towards = (
            np.mean(own, axis=0) if rule == "mean" else min(own, key=lambda row: row @ memory[label].double().numpy())
        )
        result[label] = unit(momentum * result[label] + (1 - momentum) * towards)
    return result


@pytest.mark.parametrize("rule", ["each", "mean", "hard"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.9])
def test_a_memory_moves_as_its_definition_says(drawn: tuple[torch.Tensor, ...], rule: str, momentum: float) -> None:
    memory, embeddings, labels = drawn
    before = memory.clone()
    found = update_memory(memory, embeddings, labels, momentum=momentum, rule=rule)  # type: ignore[arg-type]
    assert found.numpy() == pytest.approx(moved(memory, embeddings, labels, rule, momentum), abs=1e-5)
    assert torch.equal(found[[2, 4]], memory[[2, 4]]), "clusters that were not drawn stay"
    assert torch.equal(memory, before)


def test_drawn_vectors_are_pushed_from_their_nearest_other(drawn: tuple[torch.Tensor, ...]) -> None:
    memory, embeddings, labels = drawn
    moved_only = update_memory(memory, embeddings, labels).double().numpy()
    expected = moved_only.copy()
    for cluster in {0, 1, 3}:
        others = [other for other in range(5) if other != cluster]
        nearest = max(others, key=lambda other: moved_only[cluster] @ moved_only[other])
        expected[cluster] = unit(moved_only[cluster] - 0.2 * moved_only[nearest])
    assert update_memory(memory, embeddings, labels, push=0.2).numpy() == pytest.approx(expected, abs=1e-5)


def test_one_update_with_two_batches_is_two_updates_with_one(drawn: tuple[torch.Tensor, ...]) -> None:
    memory, embeddings, labels = drawn
    once = update_memory(memory, embeddings, labels)
    twice = update_memory(update_memory(memory, embeddings[:5], labels[:5]), embeddings[5:], labels[5:])
    torch.testing.assert_close(once, twice)


def test_a_memory_starts_empty_takes_the_first_images_and_travels_with_the_weights() -> None:
    loss = ClusterMemory(momentum=0.5)
    loss.build(4, 3)
    embeddings, labels = torch.randn(2, 4), torch.tensor([2, 0])
    outputs = ReIDOutputs(embeddings, embeddings.requires_grad_())
    loss(outputs, labels).backward()
    assert torch.isfinite(embeddings.grad).all()
    loss.update(embeddings, labels)
    units = torch.nn.functional.normalize(embeddings.detach())
    torch.testing.assert_close(loss.memory, torch.stack([units[1], torch.zeros(4), units[0]]))

    other = ClusterMemory()
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.memory, loss.memory)
