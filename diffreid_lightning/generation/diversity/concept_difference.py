"""Diversity by the difference that the attributes make to the description of the identity.

A variant of the default strategy, ``composed_guidance.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreid_lightning.diffusion.denoising_loop import Weights
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.generation.diversity.base import ImageRequest
from diffreid_lightning.generation.diversity.composed_guidance import ComposedGuidance


class ConceptDifference(ComposedGuidance):
    """Guide by the identity prompt, and by the difference of two prompts with and without the attributes.

    Within the window the prediction has the further term ``attribute_weight * (e(x, description + attributes) -
    e(x, description))``, without the identity's token in either prompt. What both prompts say of the person cancels
    out, so that the term changes the attributes and does not pull towards a person of the prompt. Differences of this
    kind are the edit directions of SEGA (Brack et al., arXiv 2301.12247) and the targets of Concept Sliders (Gandikota
    et al., arXiv 2311.12092). Four evaluations of the denoiser per step within the window (three where
    ``identity_weight`` is 1), two outside.

    Args:
        attribute_weight: weight of the difference within the window, 0 or more.
        identity_weight: weight of the identity prompt within the window, 0 or more; None is the guidance scale.
        window: timesteps of the difference, as shares of the steps: 0 is the first (noise), 1 the last (image).

    Raises:
        UserError: a negative weight, or a window that is empty or not within 0 to 1.
    """

    def __init__(
        self,
        attribute_weight: float = 3.0,
        identity_weight: float | None = None,
        window: tuple[float, float] = (0.0, 0.3),
    ) -> None:
        super().__init__(attribute_weight, identity_weight, window)

    def prompts(self, template: PromptTemplate, identity: str, request: ImageRequest) -> tuple[str, ...]:
        """Write the identity prompt, then the description with the attributes and the description alone."""
        plain, description = template.without_identity(), request.description
        return (
            template(identity=identity, description=description),
            plain(description=description, circumstances=request.attribute_words),
            plain(description=description),
        )

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Weigh identity and attributes as composed guidance, and the description alone by minus the attributes'."""
        composed = super().weights(calls, guidance, seeds)
        return np.concatenate([composed, -composed[:, 1:]], axis=1)
