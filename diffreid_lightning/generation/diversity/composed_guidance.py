"""Diversity by composed guidance: identity and attributes as separate prompts, each with a weight and a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreid_lightning.diffusion.denoising_loop import Weights
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class ComposedGuidance(Diversity):
    """A conjunction of two prompts (Composable Diffusion; Liu et al., arXiv 2206.01714, eq. 11) over part of the way.

    One prompt names the identity, the other the attributes of nobody in particular. Within the window both guide, each
    by its own weight; outside it the identity's prompt guides alone by the guidance scale of the run. Layout, view and
    light are settled while there is much noise, what a person wears in detail later, so the window begins with the
    noise. The weights add up: the guidance scale beside the attributes' weight drives images away from real ones. Three
    evaluations of the denoiser per step within the window, two outside.

    Args:
        attribute_weight: of the attributes' prompt within the window, 0 or more.
        identity_weight: of the identity's prompt within the window, 0 or more; None is the guidance scale.
        window: where the attributes guide, as shares of the steps, 0 being the first (noise) and 1 the last (image).
        in_words: name the attributes in the identity's prompt as well.

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
        begin, end = window
        if not 0 <= begin < end <= 1:
            raise UserError(
                f"The attributes' window {tuple(window)} is not a part of the process.",
                looked_for="two shares of the steps, 0 <= begin < end <= 1",
                remedy="0 is the first step, 1 the end of the last",
            )
        for name, weight in (("attribute_weight", attribute_weight), ("identity_weight", identity_weight)):
            check_range(f"ComposedGuidance.{name}", weight, 0, 100)
        self.attribute_weight = attribute_weight
        self.identity_weight = identity_weight
        self.window = (float(begin), float(end))
        self.in_words = in_words

    def prompts(self, template: PromptTemplate, identity: str, request: ImageRequest) -> tuple[str, ...]:
        """Name the identity, then the attributes."""
        said = request.wishes if self.in_words else ""
        return (
            template(identity=identity, description=request.description, circumstances=said),
            template.without_identity()(circumstances=request.wishes),
        )

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Weigh the attributes within the window."""
        place = np.arange(calls) / max(calls, 1)
        within = (place >= self.window[0]) & (place < self.window[1])
        identity = guidance if self.identity_weight is None else self.identity_weight
        pairs = np.where(within[:, None], [identity, self.attribute_weight], [guidance, 0.0]).astype(np.float32)
        return np.repeat(pairs[:, :, None], len(seeds), axis=2)

    def circumstances(self, request: ImageRequest) -> str:
        """Name the attributes."""
        return request.wishes

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Those of the design."""
        return dict(request.attributes)
