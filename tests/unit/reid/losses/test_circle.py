"""Circle loss between images against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffreid_lightning.reid.losses import circle_loss


def by_loops(features: np.ndarray, labels: list[int], scale: float, margin: float) -> float:
    """Equation 6 of Sun et al., one anchor at a time, with the weights of equation 5 and the optima of equation 8."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    terms = []
    for anchor in range(len(labels)):
        pull, push = [], []
        for other in range(len(labels)):
            cosine = float(unit[anchor] @ unit[other])
            if other != anchor and labels[other] == labels[anchor]:
                pull.append(math.exp(-scale * max(1 + margin - cosine, 0) * (cosine - (1 - margin))))
            elif other != anchor:
                push.append(math.exp(scale * max(cosine + margin, 0) * (cosine - margin)))
        if pull and push:
            terms.append(math.log(1 + sum(push) * sum(pull)))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize(("scale", "margin"), [(128.0, 0.25), (16.0, 0.4)])
@pytest.mark.parametrize("seed", range(8))
def test_equals_plain_loops(seed: int, scale: float, margin: float) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 20))
    features = rng.normal(size=(size, int(rng.integers(2, 9)))) * rng.choice([0.1, 5.0])
    labels = rng.integers(0, int(rng.integers(1, size + 1)), size=size)
    loss = circle_loss(torch.tensor(features), torch.tensor(labels), scale=scale, margin=margin)
    assert loss.item() == pytest.approx(by_loops(features, labels.tolist(), scale, margin), rel=1e-9)


def test_the_weights_of_the_pairs_have_no_gradient() -> None:
    """Equation 6 with the weights as numbers: the derivative that the paper trains with (equation 10)."""
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(6, 4, generator=rng, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    unit = torch.nn.functional.normalize(features, dim=1)
    fixed = unit @ unit.T

    def with_fixed_weights(features: torch.Tensor) -> torch.Tensor:
        unit = torch.nn.functional.normalize(features, dim=1)
        terms = []
        for anchor in range(6):
            pull, push = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            for other in {*range(6)} - {anchor}:
                cosine, constant = unit[anchor] @ unit[other], float(fixed[anchor, other])
                if labels[other] == labels[anchor]:
                    pull = pull + torch.exp(-16 * max(1.25 - constant, 0) * (cosine - 0.75))
                else:
                    push = push + torch.exp(16 * max(constant + 0.25, 0) * (cosine - 0.25))
            terms.append(torch.log(1 + pull * push))
        return torch.stack(terms).mean()

    features.requires_grad_()
    (found,) = torch.autograd.grad(circle_loss(features, labels, scale=16.0), features)
    (expected,) = torch.autograd.grad(with_fixed_weights(features), features)
    torch.testing.assert_close(found, expected)


def test_lengths_do_not_matter_and_large_scales_do_not_overflow() -> None:
    features, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1] * 4)
    loss = circle_loss(features, labels, scale=512.0)
    assert torch.isfinite(loss)
    torch.testing.assert_close(circle_loss(features * torch.arange(1, 9)[:, None], labels, scale=512.0), loss)
