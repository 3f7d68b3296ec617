"""The batch-hard triplet loss against plain loops, and the batches that have no triplet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.losses import BatchHardTriplet, batch_hard_triplet
from diffreid_lightning.reid.outputs import ReIDOutputs


def by_loops(features: np.ndarray, labels: list[int], margin: float | None) -> float:
    """Equation 5 of Hermans et al., one anchor at a time."""
    terms = []
    for anchor in range(len(labels)):
        positives, negatives = [], []
        for other in range(len(labels)):
            if other == anchor:
                continue
            distance = math.sqrt(sum((features[anchor, i] - features[other, i]) ** 2 for i in range(features.shape[1])))
            (positives if labels[other] == labels[anchor] else negatives).append(distance)
        if positives and negatives:
            gap = max(positives) - min(negatives)
            terms.append(math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0.0))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
@pytest.mark.parametrize("seed", range(12))
def test_equals_plain_loops(seed: int, margin: float | None) -> None:
    rng = np.random.default_rng(seed)
    size, dimension = int(rng.integers(1, 20)), int(rng.integers(1, 9))
    features = rng.normal(size=(size, dimension)) * rng.choice([0.1, 1.0, 5.0])
    labels = rng.integers(0, int(rng.integers(1, size + 1)), size=size)  # single images and single identities occur
    loss = batch_hard_triplet(torch.tensor(features), torch.tensor(labels), margin=margin)
    assert loss.item() == pytest.approx(by_loops(features, labels.tolist(), margin), abs=1e-9)


def test_gradient_is_the_derivative() -> None:
    features = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet(x, labels, margin=None), (features,))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5], [7]], ids=["no-positive", "no-negative", "one-image"])
@pytest.mark.parametrize("margin", [0.3, None])
def test_batch_without_a_triplet_is_zero_with_a_gradient(labels: list[int], margin: float | None) -> None:
    features = torch.randn(len(labels), 4, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor(labels), margin=margin)
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("margin", [0.3, None])
def test_copies_of_one_image_have_a_finite_gradient(margin: float | None) -> None:
    features = torch.zeros(4, 3, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=margin).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_near_neighbors_far_from_the_origin_keep_their_distance() -> None:
    """|a|² + |b|² − 2ab would round these distances away."""
    offset = torch.full((4, 64), 100.0)
    features = offset + torch.tensor([0.0, 0.001, 0.01, 0.012])[:, None]
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=0.3)
    expected = by_loops(features.double().numpy(), [0, 0, 1, 1], 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_order_of_the_batch_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(16, 8, generator=generator), torch.arange(4).repeat_interleave(4)
    order = torch.randperm(16, generator=generator)
    shuffled = batch_hard_triplet(features[order], labels[order])
    assert shuffled.item() == pytest.approx(batch_hard_triplet(features, labels).item(), rel=1e-6)


def test_bfloat16_features_give_a_float32_loss() -> None:
    features, labels = torch.randn(8, 16), torch.arange(4).repeat_interleave(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = batch_hard_triplet(features.bfloat16(), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(batch_hard_triplet(features.bfloat16().float(), labels).item(), rel=1e-6)


def test_module_compares_the_features_before_the_neck() -> None:
    features, embeddings = torch.randn(8, 6), torch.randn(8, 6)
    labels = torch.arange(4).repeat_interleave(2)
    loss = BatchHardTriplet(margin=None, weight=0.5)
    value = loss(ReIDOutputs(features, embeddings, torch.randn(8, 4)), labels)
    assert value.item() == batch_hard_triplet(features, labels, margin=None).item()
    assert (loss.name, loss.weight) == ("triplet", 0.5)


def test_arguments_out_of_range_are_the_users() -> None:
    with pytest.raises(UserError, match="margin"):
        BatchHardTriplet(margin=0.0)
    with pytest.raises(UserError, match="weight"):
        BatchHardTriplet(weight=-1.0)


def test_a_weight_counts_an_anchor_and_not_its_partners() -> None:
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(8, 3, generator=rng), torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    terms = []
    for anchor in range(7):  # 7 has no positive
        weights = torch.zeros(8)
        weights[anchor] = 0.5
        terms.append(batch_hard_triplet(features, labels, margin=2.0, weights=weights))
    plain = batch_hard_triplet(features, labels, margin=2.0)
    torch.testing.assert_close(torch.stack(terms).mean(), plain)
    torch.testing.assert_close(batch_hard_triplet(features, labels, margin=2.0, weights=torch.full((8,), 0.3)), plain)
    weights = torch.rand(8, generator=rng)
    outputs = ReIDOutputs(features, features, torch.empty(8, 1), weights)
    expected = (torch.stack(terms) * weights[:7]).sum() / weights[:7].sum()
    torch.testing.assert_close(BatchHardTriplet(margin=2.0)(outputs, labels), expected)
