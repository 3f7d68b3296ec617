"""The weighted regularization triplet against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffreid_lightning.reid.losses import batch_hard_triplet, weighted_triplet


def by_loops(features: np.ndarray, labels: list[int]) -> float:
    """Equations 9 and 10 of Ye et al., one anchor at a time."""
    terms = []
    for anchor in range(len(labels)):
        distances = [float(np.linalg.norm(features[anchor] - other)) for other in features]
        positives = [d for o, d in enumerate(distances) if o != anchor and labels[o] == labels[anchor]]
        negatives = [d for o, d in enumerate(distances) if labels[o] != labels[anchor]]
        if positives and negatives:
            near = sum(d * math.exp(d) for d in positives) / sum(math.exp(d) for d in positives)
            far = sum(d * math.exp(-d) for d in negatives) / sum(math.exp(-d) for d in negatives)
            terms.append(math.log1p(math.exp(near - far)))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 20))
    features = rng.normal(size=(size, int(rng.integers(1, 9)))) * rng.choice([0.1, 1.0, 5.0])
    labels = rng.integers(0, int(rng.integers(1, size + 1)), size=size)
    loss = weighted_triplet(torch.tensor(features), torch.tensor(labels))
    assert loss.item() == pytest.approx(by_loops(features, labels.tolist()), abs=1e-9)


def test_far_apart_the_hardest_pair_counts_alone() -> None:
    features, labels = torch.tensor([[0.0], [300.0], [900.0], [2100.0]]), torch.tensor([0, 0, 0, 1])
    hard = batch_hard_triplet(features, labels, margin=None)
    torch.testing.assert_close(weighted_triplet(features, labels), hard)
