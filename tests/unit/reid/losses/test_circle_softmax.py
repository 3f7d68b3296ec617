"""Circle loss of classification against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffreid_lightning.reid.losses import circle_softmax


def by_loops(cosines: np.ndarray, labels: list[int], scale: float, margin: float, smoothing: float) -> float:
    """Softmax cross-entropy of the weighted cosines (Sun et al., equations 5, 6 and 8), one image at a time."""
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        logits = [
            scale * max(1 + margin - s, 0) * (s - (1 - margin)) if identity == label
            else scale * max(s + margin, 0) * (s - margin)
            for identity, s in enumerate(row)
        ]  # fmt: skip
        normalizer = math.log(sum(math.exp(logit) for logit in logits))
        for identity, logit in enumerate(logits):
            target = (1 - smoothing) * (identity == label) + smoothing / len(row)
            total += target * (normalizer - logit)
    return total / len(labels)


@pytest.mark.parametrize(("scale", "margin", "smoothing"), [(64.0, 0.35, 0.0), (30.0, 0.2, 0.1)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_loops(seed: int, scale: float, margin: float, smoothing: float) -> None:
    rng = np.random.default_rng(seed)
    cosines, labels = rng.uniform(-1, 1, size=(9, 5)), rng.integers(0, 5, size=9)
    loss = circle_softmax(torch.tensor(cosines), torch.tensor(labels), scale=scale, margin=margin, smoothing=smoothing)
    assert loss.item() == pytest.approx(by_loops(cosines, labels.tolist(), scale, margin, smoothing), rel=1e-9)


def test_the_gradient_is_that_of_softmax_times_the_weights() -> None:
    """d/ds = γ α (p − target): the weights α count as numbers."""
    cosines = torch.tensor([[0.6, -0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([[1.35 - 0.6, 0.0, 0.45]], dtype=torch.float64)  # -0.5 is beyond the optimum of a negative
    logits = 8 * alpha * (cosines.detach() - torch.tensor([[0.65, 0.35, 0.35]]))
    circle_softmax(cosines, torch.tensor([0]), scale=8.0).backward()
    expected = 8 * alpha * (logits.softmax(dim=1) - F.one_hot(torch.tensor([0]), 3))
    torch.testing.assert_close(cosines.grad, expected)
