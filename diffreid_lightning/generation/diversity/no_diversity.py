"""No Diversity Injection: what the others are measured against."""

from __future__ import annotations

from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class NoDiversity(Diversity):
    """The identity's prompt alone, by classifier-free guidance (Ho and Salimans, arXiv 2207.12598); only noise varies.

    Two evaluations of the denoiser per step.
    """

    def circumstances(self, request: ImageRequest) -> str:
        """Say nothing."""
        return ""

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """None is asked for."""
        return {}
