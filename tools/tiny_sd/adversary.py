"""An adversary that tells reconstructions from images, so that a decoder draws edges instead of averaging over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffreid_lightning.errors import check_range


def discriminator_loss(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Hinge loss of the adversary (Lim and Ye, arXiv 1705.02894).

    Args:
        real: its scores of images, any shape; above 1 is certain enough.
        rebuilt: its scores of reconstructions, any shape; below -1 is certain enough.

    Returns:
        A scalar, 0 or more.
    """
    return 0.5 * ((1 - real).clamp(min=0).mean() + (1 + rebuilt).clamp(min=0).mean())


def balance(error: Tensor, deceit: Tensor, rebuilt: Tensor) -> Tensor:
    """Compute the weight at which the adversary's gradient equals the reconstruction error's.

    After Esser et al. (arXiv 2012.09841, eq. 7), who compare the gradients at the decoder's last layer; compared at the
    reconstruction they cost no pass through the decoder.

    Args:
        error: scalar loss of the reconstruction.
        deceit: scalar loss of not deceiving the adversary.
        rebuilt: (B, 3, H, W), which both depend on.

    Returns:
        A scalar in 0..10,000, without gradient.
    """
    (of_error,) = torch.autograd.grad(error, rebuilt, retain_graph=True)
    (of_deceit,) = torch.autograd.grad(deceit, rebuilt, retain_graph=True)
    return (of_error.norm() / of_deceit.norm().clamp(min=1e-12)).clamp(max=1e4).detach()


class PatchAdversary(nn.Module):
    """A network that scores overlapping patches (PatchGAN, Isola et al., arXiv 1611.07004), unnormalized.

    Args:
        channels: width of its first layer; it doubles twice.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        check_range("PatchAdversary.channels", channels, 1, 4096)
        spectral = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            spectral(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral(nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * channels, 1, 3, padding=1),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Score patches.

        Args:
            images: (B, 3, H, W) in 0..1.

        Returns:
            (B, 1, H/4, W/4) in float32.
        """
        scores: Tensor = self.layers(images * 2 - 1)
        return scores.float()

    def frozen(self, images: Tensor) -> Tensor:
        """Score patches with gradients to the images alone, not to the adversary's own weights."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        scores: Tensor = functional_call(self, weights, (images,))
        return scores
