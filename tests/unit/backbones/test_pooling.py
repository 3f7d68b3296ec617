"""Generalized-mean pooling against its formula and its two limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffreid_lightning.backbones.pooling import GeM, gem_pool

PATTERNS = {"b c h w -> b c": (3, 5, 4, 2), "b h w c -> b c": (3, 4, 2, 5), "b n c -> b c": (3, 8, 5)}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_equals_the_formula(pattern: str, p: float) -> None:
    features = np.random.default_rng(0).normal(size=PATTERNS[pattern])
    axes = tuple(axis for axis, name in enumerate(pattern.split("->")[0].split()) if name not in "bc")
    expected = (np.maximum(features, 1e-6) ** p).mean(axis=axes) ** (1 / p)
    np.testing.assert_allclose(gem_pool(torch.tensor(features), p, pattern=pattern).numpy(), expected, rtol=1e-10)


def test_limits_are_mean_and_maximum() -> None:
    features = torch.rand(2, 3, 4, 4, dtype=torch.float64) + 0.1
    torch.testing.assert_close(gem_pool(features, 1.0), features.mean((2, 3)))
    torch.testing.assert_close(gem_pool(features, 400.0), features.amax((2, 3)), rtol=2e-2, atol=0)


def test_exponent_is_learnt_and_half_precision_pooled_in_float32() -> None:
    pool = GeM()
    pooled = pool((torch.rand(2, 3, 4, 4) * 1e-3).half())
    pooled.sum().backward()
    assert pooled.dtype == torch.float32
    assert pool.p.grad is not None
    assert torch.isfinite(pool.p.grad).all()
    assert pool.p.grad.abs().sum() > 0


def test_half_precision_does_not_underflow() -> None:
    pooled = gem_pool(torch.full((1, 1, 2, 2), 1e-3).half(), 3.0)
    torch.testing.assert_close(pooled, torch.full((1, 1), 1e-3), rtol=1e-3, atol=0)


def test_dead_channel_has_a_finite_gradient() -> None:
    features = torch.zeros(1, 2, 3, 3, requires_grad=True)
    GeM()(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
