"""Center loss and the way of its centers against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffreid_lightning.reid.losses import CenterLoss, center_loss
from diffreid_lightning.reid.losses.center import move_centers
from diffreid_lightning.reid.outputs import ReIDOutputs


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_centers_equal_plain_loops(seed: int) -> None:
    """Equations 2 and 4 of Wen et al.; identity 4 has no image in the batch."""
    rng = np.random.default_rng(seed)
    embeddings, centers = rng.normal(size=(9, 3)), rng.normal(size=(5, 3))
    labels = rng.integers(0, 4, size=9)
    expected = np.mean([((x - centers[y]) ** 2).sum() for x, y in zip(embeddings, labels, strict=True)])
    tensors = torch.tensor(embeddings), torch.tensor(centers), torch.tensor(labels)
    assert center_loss(*tensors).item() == pytest.approx(expected)
    moved = centers.copy()
    for identity in range(5):
        own = embeddings[labels == identity]
        moved[identity] -= 0.5 * sum((centers[identity] - x for x in own), np.zeros(3)) / (1 + len(own))
    found = move_centers(tensors[1], tensors[0], tensors[2], rate=0.5)
    np.testing.assert_allclose(found.numpy(), moved)
    np.testing.assert_array_equal(found[4].numpy(), centers[4])


def test_the_centers_reach_the_means_without_a_gradient() -> None:
    embeddings, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4)
    loss = CenterLoss()
    loss.build(3, 2)
    assert loss.has_update and not list(loss.parameters())
    for _ in range(60):
        loss.update(embeddings, labels)
    means = torch.stack([embeddings[labels == identity].mean(dim=0) for identity in (0, 1)])
    torch.testing.assert_close(loss.centers, means)
    value = loss(ReIDOutputs(embeddings + 100, embeddings), labels)
    assert value.item() == pytest.approx(center_loss(embeddings, means, labels).item(), rel=1e-5), "after the neck"


def test_a_checkpoint_brings_its_centers_to_a_loss_that_is_not_sized() -> None:
    trained, fresh = CenterLoss(), CenterLoss()
    trained.build(3, 2)
    trained.update(torch.ones(2, 3), torch.tensor([0, 1]))
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fresh.centers, torch.full((2, 3), 0.25))
