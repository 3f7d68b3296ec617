"""MGN against a network put together here from stock ResNets, its start from one, and its export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from diffreid_lightning.backbones import Backbone, BNNeck, load_initial_weights, save_backbone
from diffreid_lightning.backbones.pooling import gem_pool
from diffreid_lightning.errors import UserError
from tests.fixtures import small_architectures  # noqa: F401 (registers the names)

MGN, PLAIN, SIZE = "small_mgn", "small_resnet", (192, 64)
IMAGES = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain(tmp_path: Path) -> Backbone:
    """A pre-trained ResNet with everything that must not reach MGN: stride 1, GeM, a neck; its folder is ``plain``."""
    torch.manual_seed(2)
    backbone = Backbone(PLAIN, image_size=(64, 32), pooling="gem", last_stride=1, mean=(0.3, 0.4, 0.6)).eval()
    for module in backbone.modules():  # last norms start at 0, which would hide the branches
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    neck = BNNeck(backbone.num_features)
    save_backbone(backbone, tmp_path / "plain", provenance={}, neck=neck)
    return backbone


def started(tmp_path: Path) -> Backbone:
    backbone = Backbone(MGN, image_size=SIZE).eval()
    load_initial_weights(backbone, str(tmp_path / "plain"))
    return backbone


def test_it_starts_from_a_pretrained_resnet(plain: Backbone, tmp_path: Path) -> None:
    """Three whole ResNets: the first as timm builds it, the others without their last downsampling."""
    backbone = Backbone(MGN, image_size=SIZE).eval()
    report = load_initial_weights(backbone, str(tmp_path / "plain"), neck=BNNeck(32))
    assert not report.is_partial and not report.with_neck and report.mean == (0.3, 0.4, 0.6)
    assert len(report.fresh) == 16 and all(name.startswith("part_heads.") for name in report.fresh)
    assert "new and random: part_heads.0" in str(report)
    assert (backbone.pooling, backbone.last_stride, backbone.num_features) == ("native", None, 32)
    assert backbone.parts == (4,) * 8 and backbone.groups == (4, 4, 8, 4, 12)

    normalized = (IMAGES - backbone.mean) / backbone.std
    with torch.no_grad():
        fine = plain.model.forward_features(normalized)
        plain.set_last_stride(2)
        coarse = plain.model.forward_features(normalized)
        pieces = [coarse, fine, *fine.split(6, dim=2), fine, *fine.split(4, dim=2)]
        parts = [
            gem_pool(piece, 3.0) @ head.reduction.weight.T
            for piece, head in zip(pieces, backbone.model.part_heads, strict=True)
        ]
        torch.testing.assert_close(backbone(IMAGES), torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)


def test_branches_share_no_weights() -> None:
    model = Backbone(MGN, image_size=SIZE).model
    parts = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    for branch, columns in (("branch2", slice(4, 16)), ("branch3", slice(16, 32))):
        weights = [weight for weight in getattr(model, branch).parameters() if weight.ndim == 4]
        own = torch.autograd.grad(parts[:, columns].sum(), weights, retain_graph=True)
        assert any(gradient.any() for gradient in own)
        others = parts[:, : columns.start].sum() + parts[:, columns.stop :].sum()
        assert not any(g.any() for g in torch.autograd.grad(others, weights, retain_graph=True))


def test_an_export_opens_again_here_and_in_timm(plain: Backbone, tmp_path: Path) -> None:
    backbone, neck = started(tmp_path), BNNeck(32)
    nn.init.uniform_(neck.norm.weight)
    folder = save_backbone(backbone, tmp_path / "export", provenance={}, neck=neck)
    again, fresh = Backbone(f"local-dir:{folder}", image_size=SIZE).eval(), BNNeck(32)
    report = load_initial_weights(again, "timm", neck=fresh)
    assert not report.is_partial and report.with_neck and not report.fresh
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = backbone(IMAGES)
        assert torch.equal(again(IMAGES), expected) and torch.equal(fresh(expected), neck(expected))
        maps = stock.forward_features((IMAGES - backbone.mean) / backbone.std)
        torch.testing.assert_close(stock.forward_head(maps, pre_logits=True), expected)
    note = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert note["registered_by"] == "diffreid_lightning.backbones"


def test_weights_of_mgn_without_its_part_heads_are_partial(plain: Backbone, tmp_path: Path) -> None:
    backbone = started(tmp_path)
    backbone.model.part_heads = nn.ModuleList()
    folder = save_backbone(backbone, tmp_path / "export", provenance={})
    with pytest.raises(UserError, match=r"16 missing: part_heads\.0"):
        load_initial_weights(Backbone(MGN, image_size=SIZE), str(folder))


def test_images_of_two_rows_and_another_pooling_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be cut into 3 stripes"):
        Backbone(MGN, image_size=(32, 32))
    with pytest.raises(UserError, match="cannot be pooled with 'gem'"):
        Backbone(MGN, image_size=SIZE, pooling="gem")
