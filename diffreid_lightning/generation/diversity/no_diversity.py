"""Baseline without Diversity Injection."""

from __future__ import annotations

from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class NoDiversity(Diversity):
    """Guide by the identity prompt only (classifier-free guidance, arXiv 2207.12598); images differ by their noise.

    Two evaluations of the denoiser per step.
    """

    def circumstances(self, request: ImageRequest) -> str:
        """Return no words."""
        return ""

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Return no attributes."""
        return {}
