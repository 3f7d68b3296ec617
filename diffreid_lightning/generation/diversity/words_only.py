"""Diversity by words: identity and attributes in one prompt."""

from __future__ import annotations

from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class WordsOnly(Diversity):
    """Guide by one prompt with identity and attributes, at every timestep alike.

    Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): two evaluations of the denoiser per step.
    """

    def circumstances(self, request: ImageRequest) -> str:
        """Return the attributes."""
        return request.attribute_words

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Return the attributes of the design."""
        return dict(request.attributes)
