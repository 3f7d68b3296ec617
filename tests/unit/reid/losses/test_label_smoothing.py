"""Label smoothing against the formula of the paper and against torch's own module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.losses import LabelSmoothedCrossEntropy, label_smoothed_cross_entropy
from diffreid_lightning.reid.outputs import ReIDOutputs


def by_formula(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Equation 2 of Luo et al.: the true class has probability 1 − (N − 1)/N · ε, every other one ε/N."""
    count = logits.shape[1]
    target = np.full(logits.shape, smoothing / count)
    target[np.arange(len(labels)), labels] = 1 - (count - 1) / count * smoothing
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(target * log_probabilities).sum(axis=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_papers_formula_and_torch(seed: int, smoothing: float) -> None:
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(1, 12)), int(rng.integers(2, 40))
    logits, labels = rng.normal(size=(size, count)) * 4, rng.integers(0, count, size=size)
    loss = label_smoothed_cross_entropy(torch.tensor(logits), torch.tensor(labels), smoothing=smoothing)
    assert loss.item() == pytest.approx(by_formula(logits, labels, smoothing), rel=1e-10)
    theirs = nn.CrossEntropyLoss(label_smoothing=smoothing)(torch.tensor(logits), torch.tensor(labels))
    assert loss.item() == theirs.item()


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits, labels = torch.randn(4, 7).half() * 20, torch.tensor([0, 1, 2, 6])
    loss = label_smoothed_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_formula(logits.double().numpy(), labels.numpy(), 0.1), rel=1e-5)


def test_module_classifies_the_logits() -> None:
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    loss = LabelSmoothedCrossEntropy(smoothing=0.2, weight=2.0)
    value = loss(ReIDOutputs(torch.randn(6, 3), torch.randn(6, 3), logits), labels)
    assert value.item() == label_smoothed_cross_entropy(logits, labels, smoothing=0.2).item()
    assert (loss.name, loss.weight) == ("cross_entropy", 2.0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_the_users(smoothing: float) -> None:
    with pytest.raises(UserError, match="smoothing must be at least 0 and less than 1"):
        LabelSmoothedCrossEntropy(smoothing=smoothing)


def test_a_weight_counts_a_row_so_often() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 4, generator=rng), torch.tensor([0, 3, 1, 1, 2])
    times = torch.tensor([1, 0, 3, 2, 1])
    repeated = label_smoothed_cross_entropy(logits.repeat_interleave(times, 0), labels.repeat_interleave(times))
    torch.testing.assert_close(label_smoothed_cross_entropy(logits, labels, weights=times.float()), repeated)
    outputs = ReIDOutputs(torch.empty(5, 1), torch.empty(5, 1), logits, times.float())
    torch.testing.assert_close(LabelSmoothedCrossEntropy()(outputs, labels), repeated)
    assert label_smoothed_cross_entropy(logits, labels, weights=torch.zeros(5)) == 0
