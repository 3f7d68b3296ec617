"""Diversity by words: the attributes join the identity in one prompt."""

from __future__ import annotations

from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class WordsOnly(Diversity):
    """One prompt that names identity and attributes, as a user of text-to-image models would write it.

    Guided without a classifier (Ho and Salimans, arXiv 2207.12598): two evaluations of the denoiser per step.
    """

    def circumstances(self, request: ImageRequest) -> str:
        """Name the attributes."""
        return request.wishes

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Those of the design."""
        return dict(request.attributes)
