"""Update the moving average of a network (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780).

The mean teachers of domain adaptation are kept in ``unsupervised/mutual_teaching.py``, the average of a few-step
student in ``distillation/module.py``.
"""

from __future__ import annotations

import torch
from torch import nn


def warmed_decay(step: int, decay: float) -> float:
    """Return the share of the average that is kept at an optimizer step counted from 0: ``min(1 − 1/(t + 1), decay)``.

    So the average starts as the network itself, and is a plain mean until it has seen ``1 / (1 − decay)`` steps.
    """
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average towards the network: parameters and floating buffers; other buffers are copied.

    Args:
        average: a copy of the network, changed in place; it shares no tensor with it.
        network: the network.
        decay: share of the average that is kept, 0 to 1.
    """
    pairs = [
        *zip(average.parameters(), network.parameters(), strict=True),
        *zip(average.buffers(), network.buffers(), strict=True),
    ]
    for mean, current in pairs:
        if mean.is_floating_point():
            mean.lerp_(current.to(mean.dtype), 1 - decay)
        else:
            mean.copy_(current)
