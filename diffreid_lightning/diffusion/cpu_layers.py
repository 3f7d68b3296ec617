"""Compute linear layers by oneDNN on a CPU, those of a text once, and group normalization of bfloat16 in float32.

In float32, torch's own product is half as fast on some CPUs, and its group normalization of bfloat16 three times slower
than that of float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from diffreid_lightning.devices import computes_bfloat16

_MOST_KEPT = 2**20  # numbers of a layer, 4 MB; where it has more, a text is a small part of the work
_KERNELS: Any = torch.ops.mkldnn  # what torch.compile generates calls of; not a documented interface


@functools.cache
def _available() -> bool:
    """Return true if this torch has the kernels, and they give the product."""
    inputs, weight = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
    try:
        product = _KERNELS._linear_pointwise(inputs, weight, None, "none", [], "")
        gated = _KERNELS._linear_pointwise.binary(inputs, product, weight, None, "mul")
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = inputs @ weight.T
    return torch.allclose(product, expected) and torch.allclose(gated, expected * expected)


def use_onednn(network: nn.Module) -> None:
    """Let oneDNN compute the linear layers of a network in evaluation, in place.

    Only a CPU without gradients is concerned, in float32, and in bfloat16 where it has instructions for it: all else is
    computed as before. Names and weights stay, results differ by rounding.

    Args:
        network: its plain ``nn.Linear``, ``nn.GroupNorm`` and diffusers' ``GEGLU`` layers are exchanged. Keys and
            values of cross-attention are computed once for a text, not in every step, where a layer's have at most 2^20
            numbers.
    """
    for layer in network.modules() if _available() else ():
        if type(layer) in _CLASSES:
            layer.__class__ = _CLASSES[type(layer)]
        if isinstance(layer, Attention) and layer.is_cross_attention:
            for projection in (layer.to_k, layer.to_v):
                if type(projection) is nn.Linear:
                    projection.__class__ = _TextLinear


@functools.cache
def _native(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or (dtype == torch.bfloat16 and computes_bfloat16(torch.device("cpu")))


def _takes(states: Tensor) -> bool:
    plain = states.device.type == "cpu" and _native(states.dtype)
    usual = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return plain and not usual


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if not _takes(input):
            return super().forward(input)
        product: Tensor = _KERNELS._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


class _TextLinear(_Linear):
    def __getstate__(self) -> dict[str, Any]:
        # Weak keys cannot be copied: they are those of this process.
        return {name: value for name, value in self.__dict__.items() if name != "_products"}

    def forward(self, input: Tensor) -> Tensor:
        if not _takes(input) or input.numel() // self.in_features * self.out_features > _MOST_KEPT:
            return super().forward(input)
        products: WeakIdKeyDictionary = self.__dict__.setdefault("_products", WeakIdKeyDictionary())
        if input not in products:  # the same tensor, which nobody changes, in all steps of a batch
            products[input] = super().forward(input)
        product: Tensor = products[input]
        return product


class _GatedGELU(GEGLU):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not _takes(hidden_states):
            gated: Tensor = super().forward(hidden_states, *args, **kwargs)
            return gated
        # Each product with what follows it: neither gate nor product is written and read again.
        (weight, gate_weight), bias = self.proj.weight.chunk(2), self.proj.bias
        shift, gate_shift = (None, None) if bias is None else bias.chunk(2)
        gate = _KERNELS._linear_pointwise(hidden_states, gate_weight, gate_shift, "gelu", [], "none")
        gated = _KERNELS._linear_pointwise.binary(hidden_states, gate, weight, shift, "mul")
        return gated


class _GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float32 or not _takes(input):
            return super().forward(input)
        scale, shift = (None if each is None else each.float() for each in (self.weight, self.bias))
        return F.group_norm(input.float(), self.num_groups, scale, shift, self.eps).to(input.dtype)


_CLASSES: dict[type, type] = {nn.Linear: _Linear, GEGLU: _GatedGELU, nn.GroupNorm: _GroupNorm}
