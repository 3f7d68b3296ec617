"""Diversity from real pictures: start from a noisy image of the identity instead of from noise."""

from __future__ import annotations

from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class SDEdit(Diversity):
    """Add noise to a real image of the identity and denoise it again (Meng et al., arXiv 2108.01073).

    The design deals an identity's real images to its generated ones in turn; view, pose and place come from there, and
    the prompt says what is known of them. Two evaluations of the denoiser per step, for ``strength`` of the steps; and
    one pass of the image through the autoencoder's encoder.

    Args:
        strength: share of the steps that are taken, above 0 and up to 1: how much noise the image gets. Near 0 it is
            copied, at 1 little of it is left.

    Raises:
        UserError: the strength is not within these bounds.
    """

    uses_reference = True

    def __init__(self, strength: float = 0.7) -> None:
        if not 0 < strength <= 1:
            raise UserError(f"A process of strength {strength} draws nothing.", looked_for="above 0 and up to 1")
        self.strength = strength

    def circumstances(self, request: ImageRequest) -> str:
        """Name what the reference shows."""
        return request.reference_circumstances

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Name the image it starts from."""
        return {"reference": request.reference}

    def skipped(self, steps: int) -> int:
        """Leave out the noisiest steps; at least one is taken."""
        return steps - max(1, min(int(steps * self.strength), steps))
