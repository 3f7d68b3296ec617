"""Base of the Diversity Injection strategies: prompts, their weights per timestep, and the starting point.

The default strategy is in ``composed_guidance.py``; ``diffusion/denoising_loop.py`` applies the weights of a strategy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.diffusion.denoising_loop import Weights, find_evaluated, limit_guidance
from diffreid_lightning.diffusion.prompt_template import PromptTemplate


class ImageRequest(NamedTuple):
    """Request for one image, before a strategy turns it into prompts."""

    key: IdentityKey  #: (source, partition, pid)
    number: int  #: of the image among the identity's, from 0
    seed: int  #: of its noise, see :func:`~diffreid_lightning.generation.attribute_design.image_seed`
    description: str  #: words that hold for all images of the identity; may be ""
    attributes: Mapping[str, str]  #: the design's phrases by attribute
    reference: str  #: file name of the real image that the design assigns to this one
    reference_circumstances: str  #: circumstances of that image; may be ""

    @property
    def attribute_words(self) -> str:
        """The attributes as one phrase."""
        return ", ".join(self.attributes.values())


class Diversity(ABC):
    """Strategy that brings the attributes of a request into the denoising process.

    At each timestep the prediction is guided by K prompts (Liu et al., arXiv 2206.01714, eq. 11):
    ``e(x) + sum_k w_k (e(x, c_k) - e(x))``, where e(x) is the unconditional prediction. A strategy chooses the prompts
    c_k (:meth:`prompts`), their weights w_k at each timestep (:meth:`weights`), and the starting point: pure noise, or
    a noisy reference image without the first steps (:meth:`count_skipped`). With one prompt it is classifier-free
    guidance (Ho and Salimans, arXiv 2207.12598). Prompts without weight are not evaluated.

    A subclass keeps its arguments as attributes of the same names, plain JSON values: they are part of the cache key.
    """

    #: Whether the process starts from the request's reference image.
    uses_reference: bool = False

    def prompts(self, template: PromptTemplate, identity: str, request: ImageRequest) -> tuple[str, ...]:
        """Write the prompts of a request; by default one, of the identity and the circumstances.

        Args:
            template: the model's prompt template.
            identity: the identity's token; "" if the model has none.
            request: of one image.

        Returns:
            K prompts, the identity's first.
        """
        circumstances = self.circumstances(request)
        return (template(identity=identity, description=request.description, circumstances=circumstances),)

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Weigh the prompts at each timestep; by default one prompt, by the guidance scale.

        Args:
            calls: number of calls of the denoiser.
            guidance: the guidance scale of the run, 1 or more.
            seeds: of B images.

        Returns:
            (calls, K, B), from the noisiest call to the last.
        """
        return np.full((calls, 1, len(seeds)), guidance, np.float32)

    @abstractmethod
    def circumstances(self, request: ImageRequest) -> str:
        """Return the words for the image besides the identity; "" for none."""

    @abstractmethod
    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Return the requested attributes, for the manifest."""

    def count_skipped(self, steps: int) -> int:
        """Return the number of sampler steps that are left out at the noisy end."""
        return 0

    def evaluations(
        self, steps: int, guidance: float, interval: tuple[float, float] = (0.0, 1.0), calls: int | None = None
    ) -> int:
        """Count the evaluations of the denoiser for one image.

        Args:
            steps: sampler steps.
            guidance: the guidance scale.
            interval: part of the process in which prompts guide, as ``GenerationModule.guidance_interval``.
            calls: of the denoiser, as the sampler counts them (Heun's has two per step); None means one for each step
                that is taken, as in first-order and multistep samplers.
        """
        skipped = self.count_skipped(steps)
        calls = steps - skipped if calls is None else calls
        # Weights may depend on the seed, so they are taken over several.
        weights = limit_guidance(self.weights(calls, guidance, range(64)), interval, skipped / steps)
        return int(find_evaluated(weights).sum())

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as plain JSON values."""
        return dict(vars(self))
