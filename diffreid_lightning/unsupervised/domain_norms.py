"""Batch normalization by domain (Chang et al., "Domain-Specific Batch Normalization", CVPR 2019, arXiv 1906.03950)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


class DomainNorms(nn.Module):
    """Hold a second domain's batch-norm layers for a network that keeps its own; all other weights are shared.

    The network stays as it is, so that it is saved and exported without the second domain.

    Args:
        network: the network, whose batch-norm layers are copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
        # A key of a ModuleDict has no dot.
        self.norms = nn.ModuleDict({name.replace(".", "/"): copy.deepcopy(norm) for name, norm in norms.items()})

    def run(self, network: nn.Module, *inputs: Any) -> Tensor:
        """Run the network with the second domain's layers; in training their running statistics are updated."""
        layers = {
            f"{key.replace('/', '.')}.{name}": value
            for key, norm in self.norms.items()
            for name, value in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False))
        }
        output: Tensor = functional_call(network, layers, inputs)
        return output
