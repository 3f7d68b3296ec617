"""The last stride against hand-edited timm models."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from diffreid_lightning.backbones.stride import apply_edits, find_last_stride
from tests.fixtures import small_architectures  # noqa: F401


def build(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    for module in model.modules():  # batch norm with identity statistics would hide a wrong path
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def hand_edited(name: str) -> nn.Module:
    """The edit as Re-ID code bases write it down for one architecture."""
    model = build(name)
    block = model.blocks[5][0] if name.startswith("tf_") else model.layer4[0]
    if name == "resnet50":
        block.conv2.stride, block.downsample[0].stride = (1, 1), (1, 1)
    elif name == "resnet18":
        block.conv1.stride, block.downsample[0].stride = (1, 1), (1, 1)
    elif name == "resnet26d":
        block.conv2.stride, block.downsample[0] = (1, 1), nn.Identity()
    else:
        block.conv_dw.stride = (1, 1)
    return model


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "resnet26d", "tf_efficientnet_lite0"])
def test_equals_the_hand_edited_model(name: str) -> None:
    images = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    model, expected = build(name), hand_edited(name)
    apply_edits(model, find_last_stride(model))
    with torch.no_grad():
        features = model.forward_features(images)
        assert torch.equal(features, expected.forward_features(images))
    assert features.shape[2:] == (8, 4)


def test_is_not_timms_output_stride() -> None:
    """output_stride=16 has the same map size and dilates the kernels."""
    images = torch.randn(1, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    model, dilated = build("resnet50"), build("resnet50", output_stride=16)
    dilated.load_state_dict(model.state_dict())
    apply_edits(model, find_last_stride(model))
    with torch.no_grad():
        ours, theirs = model.forward_features(images), dilated.forward_features(images)
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours, theirs, rtol=1e-2)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv3_small_100", "regnety_002", "pvt_v2_b0", "repvgg_a0"])
def test_other_families_double_their_map(name: str) -> None:
    model = build(name)
    images = torch.randn(1, 3, 256, 128)
    with torch.no_grad():
        before = model.forward_features(images).shape
        apply_edits(model, find_last_stride(model))
        after = model.forward_features(images).shape
    assert after[:2] == before[:2]
    assert after[2:] == (2 * before[2], 2 * before[3])


def test_layers_beside_the_map_keep_their_stride() -> None:
    """PVT thins the keys of its attention with a stride that also goes from reduction 16 to 32."""
    assert {edit.module for edit in find_last_stride(build("pvt_v2_b0"))} == {"stages.3.downsample.proj"}


@pytest.mark.parametrize("name", ["convnext_atto", "hrnet_w18_small"])
def test_architectures_without_such_a_stride_stay_as_they_are(name: str) -> None:
    model = build(name)
    strides = {key: copy.copy(getattr(module, "stride", None)) for key, module in model.named_modules()}
    assert find_last_stride(model) == ()
    assert strides == {key: getattr(module, "stride", None) for key, module in model.named_modules()}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "small_swin"])
def test_transformers_have_none(name: str) -> None:
    assert find_last_stride(build(name, img_size=(128, 64)), (128, 64)) == ()


def test_search_leaves_no_trace_and_edits_can_be_undone() -> None:
    model = build("resnet26d").train()
    model.bn1.eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    seed = torch.random.get_rng_state()
    edits = find_last_stride(model)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

    images = torch.randn(1, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        before = model.forward_features(images)
        apply_edits(model, edits)
        apply_edits(model, edits, undo=True)
        assert torch.equal(model.forward_features(images), before)
