"""Generalized-mean pooling of feature maps and tokens."""

from __future__ import annotations

import einops
import torch
from torch import Tensor, nn

from diffreid_lightning.errors import check_range


def gem_pool(features: Tensor, p: Tensor | float, *, pattern: str = "b c h w -> b c", eps: float = 1e-6) -> Tensor:
    """Pool positions with the generalized mean (Radenović et al., TPAMI 2019, equation 3).

    ``p = 1`` is the average of the clamped activations, ``p → ∞`` their maximum.

    Args:
        features: activations, in the layout on the left of ``pattern``; half precision is pooled in float32.
        p: the exponent, > 0, one for all channels.
        pattern: einops reduction from the layout of ``features`` to (B, C).
        eps: activations are clamped from below to this value, because a power of a negative number is undefined.

    Returns:
        (B, C) pooled features, >= ``eps``.
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()  # eps ** 3 does not exist in half precision
    powered = features.clamp(min=eps).pow(p)
    return einops.reduce(powered, pattern, "mean").pow(1.0 / p)


class GeM(nn.Module):
    """Generalized-mean pooling with one learnable exponent.

    Args:
        pattern: einops reduction from the layout of the features to (B, C).
        p: initial exponent, > 0; 3 as in Radenović et al. and AGW (Ye et al., TPAMI 2021).
    """

    def __init__(self, pattern: str = "b c h w -> b c", p: float = 3.0) -> None:
        super().__init__()
        check_range("GeM.p", p, 0, 100, above=True)
        self.pattern = pattern
        self.p = nn.Parameter(torch.tensor([float(p)]))

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features`` to (B, C); see :func:`gem_pool`."""
        # In the network's own type, which is the exponent's; autocast may have chosen another for the layer before.
        return gem_pool(features, self.p, pattern=self.pattern).to(self.p.dtype)

    def extra_repr(self) -> str:
        """Show the layout in the printed module."""
        return f"{self.pattern!r}"
