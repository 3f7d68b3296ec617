"""Diversity by composed guidance: separate prompts for identity and attributes, weighted by timestep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreid_lightning.diffusion.denoising_loop import Weights
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import check_pair, check_range
from diffreid_lightning.generation.diversity.base import ImageRequest
from diffreid_lightning.generation.diversity.words_only import WordsOnly


class ComposedGuidance(WordsOnly):
    """Guide by an identity prompt and an attribute prompt (Composable Diffusion, arXiv 2206.01714, eq. 11).

    At timesteps within the window both prompts guide, each by its own weight; outside it only the identity prompt, by
    the run's guidance scale. Layout, view and light are decided at the noisy timesteps, details of clothes later, so
    the window begins with the noise. The weights add up: the full guidance scale beside ``attribute_weight`` drives
    images away from real ones. Three evaluations of the denoiser per step within the window, two outside.

    Args:
        attribute_weight: weight of the attribute prompt within the window, 0 or more.
        identity_weight: weight of the identity prompt within the window, 0 or more; None is the guidance scale.
        window: timesteps of the attribute prompt, as shares of the steps: 0 is the first (noise), 1 the last (image).
        in_words: add the attributes to the identity prompt as well.

    Raises:
        UserError: a negative weight, or a window that is empty or not within 0 to 1.
    """

    def __init__(
        self,
        attribute_weight: float = 3.0,
        identity_weight: float | None = 1.0,
        window: tuple[float, float] = (0.0, 0.3),
        in_words: bool = False,
    ) -> None:
        for name, weight in (("attribute_weight", attribute_weight), ("identity_weight", identity_weight)):
            check_range(f"{type(self).__name__}.{name}", weight, 0, 100)
        self.attribute_weight = attribute_weight
        self.identity_weight = identity_weight
        check_pair(f"{type(self).__name__}.window", window, 0, 1, apart=True)
        self.window = (float(window[0]), float(window[1]))
        self.in_words = in_words

    def prompts(self, template: PromptTemplate, identity: str, request: ImageRequest) -> tuple[str, ...]:
        """Write the identity prompt, then the attribute prompt."""
        words = request.attribute_words if self.in_words else ""
        return (
            template(identity=identity, description=request.description, circumstances=words),
            template.without_identity()(circumstances=request.attribute_words),
        )

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Weigh both prompts within the window, only the identity prompt outside."""
        place = np.arange(calls) / max(calls, 1)
        within = (place >= self.window[0]) & (place < self.window[1])
        identity = guidance if self.identity_weight is None else self.identity_weight
        pairs = np.where(within[:, None], [identity, self.attribute_weight], [guidance, 0.0]).astype(np.float32)
        return np.repeat(pairs[:, :, None], len(seeds), axis=2)
