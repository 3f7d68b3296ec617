from __future__ import annotations

import contextlib
import copy
import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch import nn

from diffreid_lightning.diffusion import cpu_layers
from diffreid_lightning.diffusion.cpu_layers import use_onednn


def network(bias: bool) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(GEGLU(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)).eval()


def formula(layers: Any, states: torch.Tensor) -> torch.Tensor:
    gated, last = layers.double()
    value, gate = F.linear(states.double(), gated.proj.weight, gated.proj.bias).chunk(2, dim=-1)
    return F.linear(value * gate * (1 + torch.erf(gate / 2**0.5)) / 2, last.weight, last.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 12), (5, 12)])
def test_layers_are_the_formula(bias: bool, shape: tuple[int, ...]) -> None:
    layers, states = network(bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    names = list(layers.state_dict())
    use_onednn(layers)
    use_onednn(layers)
    assert list(layers.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(layers(states), formula(network(bias), states).float())
    layers(states).sum().backward()
    assert layers[1].weight.grad is not None, "gradients take torch's own way"


@pytest.mark.skipif(not cpu_layers._available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("native", [True, False])
def test_only_native_precisions_without_gradients_go_to_onednn(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(cpu_layers, "computes_bfloat16", lambda device: native)
    cpu_layers._native.cache_clear()
    layers = network(True)
    use_onednn(layers)

    class Refuses:
        def __getattr__(self, name: str) -> None:
            raise LookupError(name)

    monkeypatch.setattr(cpu_layers, "_KERNELS", Refuses())
    states = torch.randn(2, 12)
    layers(states)
    with torch.no_grad():
        with pytest.raises(LookupError):
            layers(states)
        layers.bfloat16()
        with pytest.raises(LookupError) if native else contextlib.nullcontext():
            layers(states.bfloat16())
    cpu_layers._native.cache_clear()


@pytest.mark.parametrize("affine", [True, False])
def test_groups_of_bfloat16_are_normalized_in_float32(monkeypatch: pytest.MonkeyPatch, affine: bool) -> None:
    monkeypatch.setattr(cpu_layers, "_native", lambda dtype: True)
    torch.manual_seed(0)
    layer = nn.GroupNorm(3, 12, affine=affine)
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    layer.bfloat16()
    states = torch.randn(2, 12, 4, 5).to(memory_format=torch.channels_last).bfloat16()
    grouped = states.double().reshape(2, 3, -1)
    spread = (grouped.var(dim=2, correction=0, keepdim=True) + layer.eps).sqrt()
    expected = ((grouped - grouped.mean(dim=2, keepdim=True)) / spread).reshape(states.shape)
    if affine:
        expected = expected * layer.weight.double().view(-1, 1, 1) + layer.bias.double().view(-1, 1, 1)
    use_onednn(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(states), expected.bfloat16(), rtol=2**-8, atol=1e-6)
        assert torch.equal(layer.float()(states.float()), nn.GroupNorm.forward(layer, states.float()))


@pytest.mark.skipif(not cpu_layers._available(), reason="torch was built without oneDNN")
def test_keys_and_values_of_a_text_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=8, cross_attention_dim=12, heads=2, dim_head=4).eval()
    plain = Attention(query_dim=8, cross_attention_dim=12, heads=2, dim_head=4).eval()
    plain.load_state_dict(attention.state_dict())
    use_onednn(attention)
    use_onednn(attention)
    products, linear = [], cpu_layers._Linear.forward

    def counted(layer: Any, states: torch.Tensor) -> torch.Tensor:
        products.append(layer)
        return linear(layer, states)

    monkeypatch.setattr(cpu_layers._Linear, "forward", counted)
    with torch.no_grad():
        for number in range(3):
            text = torch.randn(2, 5, 12)
            for _ in range(4):
                states = torch.randn(2, 3, 8)
                torch.testing.assert_close(attention(states, text), plain(states, text))
            assert products.count(attention.to_k) == products.count(attention.to_v) == number + 1
            assert len(attention.to_k._products) == 1, "products of earlier texts are not kept"
            assert "_products" not in copy.deepcopy(attention).to_k.__dict__
        del text
    gc.collect()
    assert not attention.to_k._products
    monkeypatch.setattr(cpu_layers, "_MOST_KEPT", 2 * 5 * 8 - 1)
    with torch.no_grad():
        attention(torch.randn(2, 3, 8), text := torch.randn(2, 5, 12))
        assert text not in attention.to_k._products, "long texts are not kept"


@pytest.mark.parametrize("kernels", [object(), type("Other", (), {"_linear_pointwise": staticmethod(lambda x: x)})()])
def test_a_torch_with_other_kernels_computes_as_before(monkeypatch: pytest.MonkeyPatch, kernels: object) -> None:
    monkeypatch.setattr(cpu_layers, "_KERNELS", kernels)
    cpu_layers._available.cache_clear()
    layers = network(True)
    use_onednn(layers)
    assert type(layers[1]) is nn.Linear
    cpu_layers._available.cache_clear()
