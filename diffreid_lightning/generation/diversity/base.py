"""What a strategy of Diversity Injection decides: prompts, their weights over the process, and where it starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.diffusion.denoising_loop import Weights, evaluated
from diffreid_lightning.diffusion.prompt_template import PromptTemplate


class ImageRequest(NamedTuple):
    """What is asked for one image, before a strategy puts it into prompts."""

    key: IdentityKey  #: (source, partition, pid)
    number: int  #: of the image among the identity's, from 0
    seed: int  #: of its noise, see :func:`~diffreid_lightning.generation.attribute_design.image_seed`
    description: str  #: what is true of all images of the identity; may be ""
    attributes: Mapping[str, str]  #: the design's phrases by attribute
    reference: str  #: file name of the real image that the design deals to this one
    reference_circumstances: str  #: what that image shows besides the identity; may be ""

    @property
    def wishes(self) -> str:
        """The attributes as one phrase."""
        return ", ".join(self.attributes.values())


class Diversity(ABC):
    """How the attributes of a request get into the process.

    The prediction of a step is that of guidance by several prompts (Liu et al., arXiv 2206.01714, eq. 11):
    e(x) + sum_k w_k (e(x, c_k) - e(x)), where e(x) is the prediction without a prompt. A strategy gives the prompts
    c_k, their weights w_k at every step, and where on the way from noise to image the process starts. With one prompt
    it is classifier-free guidance (Ho and Salimans, arXiv 2207.12598). What has no weight is not evaluated.

    A subclass keeps its arguments as attributes of the same names, plain JSON values: they say what work it does.
    """

    #: Whether the process starts from the request's reference image.
    uses_reference: bool = False

    def prompts(self, template: PromptTemplate, identity: str, request: ImageRequest) -> tuple[str, ...]:
        """Word a request; here in one prompt, of the identity and the circumstances.

        Args:
            template: the prompt the model was trained with.
            identity: the identity's token; "" where the model has none.
            request: what is asked.

        Returns:
            K prompts, the identity's first.
        """
        said = self.circumstances(request)
        return (template(identity=identity, description=request.description, circumstances=said),)

    def weights(self, calls: int, guidance: float, seeds: Sequence[int]) -> Weights:
        """Weigh the prompts; here one, by the guidance scale.

        Args:
            calls: how often the denoiser is asked on the way.
            guidance: the guidance scale of the run, 1 or more.
            seeds: of B images.

        Returns:
            (calls, K, B), from the noisiest call to the last.
        """
        return np.full((calls, 1, len(seeds)), guidance, np.float32)

    @abstractmethod
    def circumstances(self, request: ImageRequest) -> str:
        """Tell in words what an image is to show besides the identity; "" leaves it to chance."""

    @abstractmethod
    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Tell which attributes an image is asked to have, for the manifest."""

    def skipped(self, steps: int) -> int:
        """Tell how many of a sampler's steps are left out at the noisy end."""
        return 0

    def evaluations(self, steps: int, guidance: float) -> int:
        """Cost of one image in evaluations of the denoiser.

        Args:
            steps: sampler steps, each of one call as in first-order and multistep samplers (Heun's has two).
            guidance: the guidance scale.
        """
        weights = self.weights(
            steps - self.skipped(steps), guidance, range(64)
        )  # by seed, no two images may weigh alike
        return int(evaluated(weights).sum())

    @property
    def settings(self) -> dict[str, Any]:
        """Its arguments, as plain JSON values."""
        return dict(vars(self))
