"""Diversity from real images: start from a noisy image of the identity instead of pure noise."""

from __future__ import annotations

from diffreid_lightning.errors import check_range
from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest


class SDEdit(Diversity):
    """Add noise to a real image of the identity and denoise it again (Meng et al., arXiv 2108.01073).

    The noisiest ``1 - strength`` of the steps are skipped. The design assigns an identity's real images to its
    generated ones in turn; view, pose and place come from the real image, and the prompt repeats its circumstances. Two
    evaluations of the denoiser per remaining step, and one pass through the autoencoder's encoder.

    Args:
        strength: share of the steps that are taken, above 0 and up to 1: the amount of noise. Near 0 the image is
            copied, at 1 little of it is left.

    Raises:
        UserError: the strength is not within these bounds.
    """

    uses_reference = True

    def __init__(self, strength: float = 0.7) -> None:
        check_range("SDEdit.strength", strength, 0, 1, above=True)
        self.strength = strength

    def circumstances(self, request: ImageRequest) -> str:
        """Return the circumstances of the reference image."""
        return request.reference_circumstances

    def attributes(self, request: ImageRequest) -> dict[str, str]:
        """Return the reference image's name."""
        return {"reference": request.reference}

    def count_skipped(self, steps: int) -> int:
        """Count the noisiest steps, which are left out; at least one step is taken."""
        return steps - max(1, min(int(steps * self.strength), steps))
