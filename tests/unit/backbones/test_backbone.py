"""Backbones: every family at every size, pooling, normalization, state."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from lightning.pytorch import seed_everything

from diffreid_lightning.backbones import Backbone
from diffreid_lightning.backbones.timm_folder import WeightTraits
from diffreid_lightning.errors import UserError
from tests.fixtures import small_architectures  # noqa: F401

FAMILIES = {
    "resnet18": 512,
    "vit_tiny_patch16_224": 192,
    "deit_tiny_distilled_patch16_224": 192,
    "mobilenetv3_small_100": 576,
    "mobilenetv2_100": 1280,
    "tf_efficientnet_lite0": 1280,
    "convnext_atto": 320,
    "swin_tiny_patch4_window7_224": 768,
    "small_swin": 192,
}


def images_of(backbone: Backbone, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))


SMALL_OF_EACH_KIND = ["resnet18", "vit_tiny_patch16_224", "small_swin", "mobilenetv3_small_100"]


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, (128, 64)) for name in FAMILIES]
    + [(name, size) for name in SMALL_OF_EACH_KIND for size in [(256, 128), (150, 75)]],
    ids=str,
)
def test_every_family_takes_every_size(name: str, size: tuple[int, int]) -> None:
    backbone = Backbone(name, image_size=size).eval()
    with torch.no_grad():
        features = backbone(images_of(backbone))
    assert features.shape == (2, FAMILIES[name]) == (2, backbone.num_features)
    assert torch.isfinite(features).all()
    assert (backbone.last_stride is None) == name.startswith(("vit", "deit", "convnext", "swin", "small_swin"))


@pytest.mark.parametrize("pooling", ["gem", "avg", "native"])
@pytest.mark.parametrize("name", [*SMALL_OF_EACH_KIND, "deit_tiny_distilled_patch16_224", "convnext_atto"])
def test_every_pooling_trains_every_trainable_parameter(name: str, pooling: str) -> None:
    """What never gets a gradient stops training under DDP."""
    backbone = Backbone(name, image_size=(128, 64), pooling=pooling)
    features = backbone(images_of(backbone))
    assert features.shape == (2, backbone.num_features)
    features.square().sum().backward()
    without = [key for key, value in backbone.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    assert sum(parameter.requires_grad for parameter in backbone.parameters()) > 20


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_native_is_stock_timm(name: str) -> None:
    backbone = Backbone(name, image_size=(128, 64), pooling="native", last_stride=2).eval()
    sized = {"img_size": (128, 64)} if name.startswith("vit") else {}
    stock = timm.create_model(name, pretrained=False, num_classes=0, **sized).eval()
    stock.load_state_dict(backbone.model.state_dict())
    config = stock.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = images_of(backbone).contiguous(memory_format=torch.channels_last)  # as the backbone reads them on the CPU
    with torch.no_grad():
        assert torch.equal(backbone(images), stock((images - mean) / std))


@pytest.mark.parametrize(("name", "prefix"), [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_tokens_are_pooled_without_the_prefix(name: str, prefix: int) -> None:
    backbone = Backbone(name, image_size=(128, 64), pooling="avg").eval()
    with torch.no_grad():
        tokens = backbone.model.forward_features((images_of(backbone) - backbone.mean) / backbone.std)
        assert tokens.shape[1] == prefix + 8 * 4
        torch.testing.assert_close(backbone(images_of(backbone)), tokens[:, prefix:].mean(1))


def test_maps_with_channels_last_are_pooled_over_positions() -> None:
    backbone = Backbone("small_swin", image_size=(128, 64), pooling="avg").eval()
    with torch.no_grad():
        features = backbone.model.forward_features((images_of(backbone) - backbone.mean) / backbone.std)
        assert features.shape[1:3] == (4, 2)
        torch.testing.assert_close(backbone(images_of(backbone)), features.mean((1, 2)))


def test_default_pooling_is_gem_for_maps_and_the_own_head_for_tokens() -> None:
    assert Backbone("resnet18", image_size=(64, 32)).pooling == "gem"
    assert Backbone("vit_tiny_patch16_224", image_size=(64, 32)).pooling == "native"


def test_last_stride_one_doubles_the_map_and_two_is_stock() -> None:
    images = torch.rand(1, 3, 128, 64)
    one, two = (Backbone("resnet18", image_size=(128, 64), last_stride=stride) for stride in (1, 2))
    assert one.model.forward_features(images).shape[2:] == (8, 4)
    assert two.model.forward_features(images).shape[2:] == (4, 2)
    assert (one.last_stride, two.last_stride) == (1, 2)


def test_normalization_can_be_given_and_moves_with_the_module() -> None:
    backbone = Backbone("resnet18", image_size=(64, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert backbone.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert {"mean", "std"} <= set(backbone.state_dict())
    assert backbone.double().mean.dtype == torch.float64
    other = Backbone("resnet18", image_size=(64, 32))
    other.load_state_dict(backbone.state_dict())
    assert other.normalization == backbone.normalization


def test_own_head_trains_again_when_the_pooling_comes_back_to_it() -> None:
    backbone = Backbone("mobilenetv3_small_100", image_size=(64, 32), pooling="gem")
    assert not backbone.model.conv_head.weight.requires_grad
    backbone.set_pooling("native")
    assert backbone.model.conv_head.weight.requires_grad
    assert backbone.num_features == 1024


def test_copies_are_independent() -> None:
    backbone = Backbone("test_resnet", image_size=(64, 32))
    teacher = copy.deepcopy(backbone)
    teacher.set_last_stride(2)
    images = images_of(backbone)
    assert backbone.last_stride == 1
    assert backbone.model.forward_features(images).shape[2] == 2 * teacher.model.forward_features(images).shape[2]


def test_checkpoint_restores_stride_and_pooling_that_were_left_open() -> None:
    """A folder may have decided them when training began, and need not exist any more."""
    trained = Backbone("mobilenetv3_small_100", image_size=(128, 64))
    trained.adopt(WeightTraits(last_stride=2, pooling="native"))
    restored = Backbone("mobilenetv3_small_100", image_size=(128, 64))
    assert (restored.last_stride, restored.pooling, restored.num_features) == (1, "gem", 576)
    restored.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert (restored.last_stride, restored.pooling, restored.num_features) == (2, "native", 1024)
    images = images_of(trained)
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), trained.eval()(images))


def test_state_survives_a_safe_checkpoint(tmp_path) -> None:
    trained = Backbone("resnet18", image_size=(64, 32), last_stride=2)
    torch.save(trained.state_dict(), tmp_path / "last.ckpt")
    restored = Backbone("resnet18", image_size=(64, 32))
    restored.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert restored.last_stride == 2


def test_explicit_argument_wins_over_weights_with_a_warning() -> None:
    backbone = Backbone("resnet18", image_size=(64, 32), last_stride=1, mean=[0.485, 0.456, 0.406])
    with pytest.warns(UserWarning, match="last_stride 2, 1 is asked for"):
        (sentence,) = backbone.adopt(WeightTraits(last_stride=2, mean=(0.485, 0.456, 0.406)))
    assert "last_stride" in sentence
    assert backbone.last_stride == 1


def test_adopting_what_is_already_so_says_nothing() -> None:
    backbone = Backbone("vit_tiny_patch16_224", image_size=(64, 32), pooling="native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backbone.adopt(WeightTraits(last_stride=1, pooling="native", std=(0.5, 0.5, 0.5))) == ()


def test_drop_path_is_off_by_default_even_where_timm_turns_it_on() -> None:
    def rates(backbone: Backbone) -> set[float]:
        return {round(m.drop_prob, 3) for m in backbone.modules() if type(m).__name__ == "DropPath"}

    assert rates(Backbone("small_swin", image_size=(64, 64))) <= {0.0}
    assert max(rates(Backbone("small_swin", image_size=(64, 64), drop_path_rate=0.2))) == 0.2
    assert Backbone("densenet121", image_size=(64, 64)).num_features == 1024  # knows no such argument
    with pytest.raises(UserError, match="drop_path_rate"):
        Backbone("densenet121", image_size=(64, 64), drop_path_rate=0.2)


def test_building_and_probing_draw_the_same_random_numbers() -> None:
    """Only the initial weights may draw, so that a seed means the same with every stride and pooling."""

    def after(**arguments: object) -> torch.Tensor:
        seed_everything(5, verbose=False)
        Backbone("resnet18", image_size=(64, 32), **arguments)
        return torch.rand(3)

    reference = after()
    assert torch.equal(after(last_stride=2, pooling="avg"), reference)
    seed_everything(5, verbose=False)
    timm.create_model("resnet18", pretrained=False, num_classes=0)
    assert torch.equal(torch.rand(3), reference)


@pytest.mark.parametrize(("name", "expected"), [("resnet5O", "resnet50"), ("vit_tiny_patch16", "vit_tiny_patch16_224")])
def test_misspelt_name_gets_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        Backbone(name)
    assert expected in str(caught.value)


def test_unknown_tag_lists_the_known() -> None:
    with pytest.raises(UserError, match="a1_in1k"):
        Backbone("resnet50.no_such_tag")
    assert Backbone("resnet18.a1_in1k", image_size=(64, 32)).architecture == "resnet18"


def test_size_the_architecture_cannot_take_is_the_users() -> None:
    with pytest.raises(UserError, match="128x64"):
        Backbone("inception_v3", image_size=(128, 64))


def test_several_maps_have_no_gem() -> None:
    with pytest.raises(UserError, match="native"):
        Backbone("coat_tiny", image_size=(128, 64), pooling="gem")


@pytest.mark.parametrize(
    ("name", "size", "whole"),
    [("vit_tiny_patch16_224", (150, 75), (144, 64)), ("convnext_atto", (150, 75), (128, 64))],
)
def test_edges_that_no_patch_covers_are_said(name: str, size: tuple[int, int], whole: tuple[int, int]) -> None:
    with pytest.warns(UserWarning, match=rf"{size[0] % 16 if 'vit' in name else 2} rows.*\[{whole[0]},{whole[1]}\]"):
        Backbone(name, image_size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Backbone(name, image_size=whole)
        Backbone("resnet18", image_size=size)  # its windows overlap and are padded: nothing is left out


def test_strided_pointwise_convolutions_over_few_channels_stay_contiguous() -> None:
    """OneDNN writes beyond its memory in their backward pass when they are channels-last."""
    backbone = Backbone("fastvit_t8", image_size=(64, 32))
    assert backbone.memory_format == torch.contiguous_format
    assert Backbone("resnet18", image_size=(64, 32)).memory_format == torch.channels_last
    seen = []
    backbone.model.stem[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].is_contiguous()))
    backbone(images_of(backbone)).sum().backward()
    assert seen == [True]
