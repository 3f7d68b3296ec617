"""Margins on angle and cosine against the angles themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffreid_lightning.reid.losses import angular_margin_softmax


def by_angles(
    cosines: np.ndarray, labels: list[int], scale: float, margin: float, cosine_margin: float, smoothing: float
) -> float:
    """Equation 4 of Deng et al. with arc cosines, one image at a time."""
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        logits = [scale * s for s in row]
        angle = math.acos(row[label])
        turned = math.cos(angle + margin) if angle + margin <= math.pi else row[label] - 1 + math.cos(margin)
        logits[label] = scale * (turned - cosine_margin)
        normalizer = math.log(sum(math.exp(logit) for logit in logits))
        for identity, logit in enumerate(logits):
            total += ((1 - smoothing) * (identity == label) + smoothing / len(row)) * (normalizer - logit)
    return total / len(labels)


@pytest.mark.parametrize("settings", [(64.0, 0.5, 0.0, 0.0), (30.0, 0.0, 0.35, 0.0), (16.0, 1.2, 0.2, 0.1)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed: int, settings: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    cosines, labels = rng.uniform(-1, 1, size=(12, 5)), rng.integers(0, 5, size=12)
    names = ("scale", "margin", "cosine_margin", "smoothing")
    loss = angular_margin_softmax(
        torch.tensor(cosines), torch.tensor(labels), **dict(zip(names, settings, strict=True))
    )
    assert loss.item() == pytest.approx(by_angles(cosines, labels.tolist(), *settings), rel=1e-7)


def test_without_a_margin_it_is_scaled_softmax() -> None:
    cosines, labels = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(8) % 4
    found = angular_margin_softmax(cosines, labels, scale=10.0, margin=0.0)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(10 * cosines, labels))


def test_a_wider_angle_never_lowers_the_loss() -> None:
    """Also beyond θ + m = π, where the cosine of the sum rises again."""
    angles = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    losses = [
        angular_margin_softmax(torch.stack([a.cos(), a * 0])[None], torch.tensor([0]), margin=0.8) for a in angles
    ]
    steps = torch.stack(losses).diff()
    assert (steps > -1e-9).all() and steps.max() < 2.0  # and without a jump
