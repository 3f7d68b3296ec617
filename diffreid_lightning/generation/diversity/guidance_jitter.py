"""Diversity by a random guidance scale per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreid_lightning.diffusion.denoising_loop import Weights
from diffreid_lightning.errors import check_pair, check_range
from diffreid_lightning.generation.diversity.no_diversity import NoDiversity


class GuidanceJitter(NoDiversity):
    """Guide by the identity prompt only, with a guidance scale drawn from each image's seed, for all timesteps.

    The scale trades diversity against fidelity to the prompt (Ho and Salimans, arXiv 2207.12598), and synthetic
    training sets gain from less guidance (Sariyildiz et al., arXiv 2212.08420). Two evaluations of the
    denoiser per step.

    Args:
        factors: smallest and largest factor of the run's guidance scale; drawn log-uniformly, and the scale is at
            least 1.

    Raises:
        UserError: the factors are not positive and in order.
    """

    def __init__(self, factors: tuple[float, float] = (0.4, 1.2)) -> None:
        check_pair("GuidanceJitter.factors", factors, 0, 100)
        check_range("GuidanceJitter.factors[0]", factors[0], above=True)
        self.factors = (float(factors[0]), float(factors[1]))

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Draw each image's scale."""
        low, high = np.log(self.factors)
        drawn = np.array([np.random.default_rng([seed, 1]).uniform(low, high) for seed in seeds])
        scales = np.maximum(guidance * np.exp(drawn), 1).astype(np.float32)
        return np.tile(scales, (calls, 1, 1))
