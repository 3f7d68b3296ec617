"""Properties of every loss: order, weights, precision, and batches that leave it little to compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffreid_lightning.reid import losses as package
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.losses import (
    AngularMargin,
    BatchHardTriplet,
    CenterLoss,
    CircleLoss,
    CircleSoftmax,
    ClusterMemory,
    LabelSmoothedCrossEntropy,
    MetricLoss,
    ReIDLoss,
    WeightedTriplet,
)
from diffreid_lightning.reid.outputs import ReIDOutputs

LOSSES: dict[str, Callable[[], ReIDLoss]] = {
    "AngularMargin": lambda: AngularMargin(margin=0.3, cosine_margin=0.1, smoothing=0.1),
    "BatchHardTriplet": lambda: BatchHardTriplet(margin=None),
    "CenterLoss": CenterLoss,
    "CircleLoss": lambda: CircleLoss(scale=8.0),
    "ClusterMemory": ClusterMemory,
    "CircleSoftmax": lambda: CircleSoftmax(scale=8.0, smoothing=0.1),
    "LabelSmoothedCrossEntropy": LabelSmoothedCrossEntropy,
    "WeightedTriplet": WeightedTriplet,
}
IDENTITIES, DIMENSION = 6, 5
each_loss = pytest.mark.parametrize("name", LOSSES)


def build(name: str) -> ReIDLoss:
    loss = LOSSES[name]()
    loss.build(DIMENSION, IDENTITIES)
    if isinstance(loss, CenterLoss):
        loss.centers = torch.randn(IDENTITIES, DIMENSION, generator=torch.Generator().manual_seed(5))
    if isinstance(loss, ClusterMemory):
        loss.fill(torch.randn(IDENTITIES, DIMENSION, generator=torch.Generator().manual_seed(5)))
    return loss


def outputs_of(size: int, seed: int = 0) -> ReIDOutputs:
    """Outputs whose logits may be read as cosines."""
    rng = torch.Generator().manual_seed(seed)
    features, embeddings = (torch.randn(size, DIMENSION, generator=rng) for _ in range(2))
    return ReIDOutputs(features, embeddings, torch.rand(size, IDENTITIES, generator=rng) * 2 - 1)


def rows(outputs: ReIDOutputs, index: torch.Tensor) -> ReIDOutputs:
    return ReIDOutputs(*(None if part is None else part[index] for part in outputs[:4]))  # type: ignore[arg-type]


def test_none_is_left_out() -> None:
    exported = {name for name in package.__all__ if name[0].isupper()} - {"MetricLoss", "ReIDLoss"}
    assert exported == set(LOSSES)


@each_loss
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    loss, outputs, labels = build(name), outputs_of(12), torch.arange(12) % 4
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(rows(outputs, order), labels[order]), loss(outputs, labels))


@each_loss
def test_a_weight_counts_an_image(name: str) -> None:
    """The weighted mean of the images' own losses: for a loss of single images, a weight of 2 is a second copy."""
    loss, outputs, labels = build(name), outputs_of(8), torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    anchors = 7 if isinstance(loss, MetricLoss) else 8  # the last image has no positive
    alone = torch.stack([loss(outputs._replace(weights=torch.eye(8)[row]), labels) for row in range(anchors)])
    torch.testing.assert_close(alone.mean(), loss(outputs, labels))
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0])
    expected = (alone * weights[:anchors]).sum() / weights[:anchors].sum()
    torch.testing.assert_close(loss(outputs._replace(weights=weights), labels), expected)
    if not isinstance(loss, MetricLoss):
        copies = torch.arange(8).repeat_interleave(weights.long())
        torch.testing.assert_close(loss(rows(outputs, copies), labels[copies]), expected)


@each_loss
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]], ids=["one-image-each", "one-identity"])
def test_a_batch_with_nothing_to_compare_survives(name: str, labels: list[int]) -> None:
    loss, outputs = build(name), outputs_of(4)
    leaves = [part.requires_grad_() for part in outputs[:3] if part is not None]
    value = loss(outputs, torch.tensor(labels))
    value.backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    if isinstance(loss, MetricLoss):
        assert value.item() == 0.0 and not any(gradient.any() for gradient in gradients)


@each_loss
def test_equal_images_have_a_finite_gradient(name: str) -> None:
    """Zeros, and cosines of exactly 1 and -1, where roots and lengths have no derivative."""
    loss, labels = build(name), torch.tensor([0, 0, 1, 1])
    vectors, logits = torch.zeros(4, DIMENSION, requires_grad=True), torch.ones(4, IDENTITIES)
    logits[:, 1] = -1.0
    logits.requires_grad_()
    value = loss(ReIDOutputs(vectors, vectors, logits), labels)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in (vectors, logits) if leaf.grad is not None)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss, outputs, labels = build(name), outputs_of(8), torch.arange(4).repeat_interleave(2)
    halved = ReIDOutputs(*(part.to(dtype) for part in outputs[:3] if part is not None))
    rounded = ReIDOutputs(*(part.float() for part in halved[:3] if part is not None))
    with torch.autocast("cpu", dtype=dtype):
        value = loss(halved, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(rounded, labels))


@pytest.mark.parametrize("name", sorted({*LOSSES} - {"CircleLoss", "CircleSoftmax"}))
def test_the_gradient_is_the_derivative(name: str) -> None:
    """Of those by whose weights no gradient flows, their own tests compare it."""
    loss, labels = build(name).double(), torch.tensor([0, 0, 1, 1, 2, 3])
    features, embeddings, logits = (part.double() for part in outputs_of(6)[:3] if part is not None)
    for leaf in (features, embeddings, logits):
        leaf.requires_grad_()
    parts = {"features": features, "embeddings": embeddings, "logits": logits}
    read = "logits" if loss.needs_logits else "features" if isinstance(loss, MetricLoss) else "embeddings"
    assert torch.autograd.gradcheck(
        lambda part: loss(ReIDOutputs(**{**parts, read: part}), labels), (parts[read],), atol=1e-4
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if isinstance(LOSSES[name](), MetricLoss)])
def test_a_metric_loss_compares_what_it_is_told_to(name: str) -> None:
    outputs, labels = outputs_of(8), torch.arange(4).repeat_interleave(2)
    loss = build(name)
    swapped = ReIDOutputs(outputs.embeddings, outputs.features, outputs.logits)
    before = loss(swapped, labels)
    assert isinstance(loss, MetricLoss) and loss.compares == "features"
    loss.compares = "embeddings"
    assert loss(outputs, labels).item() == before.item() != loss(swapped, labels).item()


def test_rows_without_a_label_are_not_remembered() -> None:
    memory, other = (LossList([ClusterMemory()]) for _ in range(2))
    embeddings, labels = torch.randn(6, 4), torch.tensor([0, -1, 1, 2, -1, 1])
    for losses, kept in ((memory, slice(None)), (other, labels >= 0)):
        losses.fill(torch.eye(3, 4))
        losses.remember(embeddings[kept], labels[kept])
        losses.update(lambda values: values)
    assert torch.equal(memory[0].memory, other[0].memory)
    assert not torch.equal(memory[0].memory, torch.eye(3, 4))
    weighted, same = LossList([ClusterMemory()]), labels.clamp(min=0)
    weighted.fill(torch.eye(3, 4))
    weighted.remember(embeddings, same, weights=(labels >= 0) * 0.5)  # an image of weight 0 steers nothing
    weighted.update(lambda values: values)
    assert torch.equal(weighted[0].memory, other[0].memory)
    memory.remember(embeddings, torch.full((6,), -1))
    memory.update(lambda values: values)
    assert torch.equal(memory[0].memory, other[0].memory)
