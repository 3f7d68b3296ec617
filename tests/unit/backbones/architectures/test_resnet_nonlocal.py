"""Non-local blocks against loops over positions, and their place in the network."""

from __future__ import annotations

import timm
import torch

from diffreid_lightning.backbones import Backbone, fill_backbone
from diffreid_lightning.backbones.architectures.resnet_nonlocal import NonLocal
from diffreid_lightning.backbones.timm_folder import Checkpoint, TimmConfig, WeightTraits


def test_a_block_equals_loops_over_positions() -> None:
    torch.manual_seed(0)
    block = NonLocal(6, inner_channels=3).double().eval()
    torch.nn.init.normal_(block.W[1].weight)
    maps = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    expected = maps.clone()
    for image in range(2):
        positions = maps[image].flatten(1).T
        theta, phi, g = (
            positions @ layer.weight[:, :, 0, 0].T + layer.bias for layer in (block.theta, block.phi, block.g)
        )
        for i in range(6):
            attended = sum((theta[i] @ phi[j]) * g[j] for j in range(6)) / 6
            mixed = block.W[0].weight[:, :, 0, 0] @ attended + block.W[0].bias
            normalized = mixed / (1 + 1e-5) ** 0.5 * block.W[1].weight
            expected[image, :, i // 2, i % 2] += normalized
    torch.testing.assert_close(block(maps), expected)


def test_a_new_network_is_the_resnet_that_it_starts_from() -> None:
    """The blocks begin as the identity, whatever is pre-trained around them; then each of them counts."""
    torch.manual_seed(1)
    plain = Backbone("resnet50", image_size=(64, 32), pooling="avg", last_stride=1).eval()
    traits = WeightTraits(last_stride=1, pooling="avg")
    checkpoint = Checkpoint("a folder", plain.model.state_dict(), traits, TimmConfig("resnet50"))
    backbone = Backbone("resnet50_nl", image_size=(64, 32)).eval()
    report = fill_backbone(backbone, checkpoint)
    assert not report.is_partial and len(report.fresh) == 5 * 13
    assert (backbone.pooling, backbone.last_stride) == ("avg", 1)
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        before = plain(images)
        torch.testing.assert_close(backbone(images), before)
        for attention in (*backbone.model.NL_2, *backbone.model.NL_3):
            torch.nn.init.ones_(attention.W[1].weight)
            assert not torch.allclose(backbone(images), before)
            torch.nn.init.zeros_(attention.W[1].weight)


def test_the_blocks_stand_where_agw_has_them() -> None:
    seen = []
    model = timm.create_model("resnet50_nl", num_classes=0)
    for name, module in model.named_modules():
        if name.count(".") == 1 and name.startswith(("layer", "NL")):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        model.forward_features(torch.zeros(2, 3, 64, 32))
    places = [seen[number - 1] for number, name in enumerate(seen) if name.startswith("NL")]
    assert places == ["layer2.2", "layer2.3", "layer3.3", "layer3.4", "layer3.5"]
