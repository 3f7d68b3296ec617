"""ViT with overlapping patches against patches cut out one by one, and the way of positions between grids."""

from __future__ import annotations

from pathlib import Path

import torch

from diffreid_lightning.backbones import Backbone, fill_backbone, load_initial_weights, open_foreign, save_backbone
from diffreid_lightning.backbones.architectures.vit_overlap import OverlappingPatchEmbed
from tests.fixtures import small_architectures  # noqa: F401 (registers the names)

NAME, PLAIN = "small_overlap", "small_vit"


def test_patches_are_cut_every_twelve_pixels() -> None:
    torch.manual_seed(0)
    layer = OverlappingPatchEmbed(img_size=(64, 44), patch_size=16, embed_dim=5)
    assert layer.grid_size == (5, 3) and layer.num_patches == 15
    images = torch.rand(2, 3, 64, 44)
    expected = [
        images[:, :, top : top + 16, left : left + 16].flatten(1) @ layer.proj.weight.flatten(1).T + layer.proj.bias
        for top in range(0, 49, 12)
        for left in range(0, 29, 12)
    ]
    torch.testing.assert_close(layer(images), torch.stack(expected, dim=1))


def test_positions_follow_the_grid(tmp_path: Path) -> None:
    """From timm's patches side by side to overlapping ones, and between image sizes: corners stay corners."""
    plain = Backbone(PLAIN, image_size=(256, 128))
    ramp = torch.arange(16.0)[:, None].expand(16, 8).reshape(1, 128, 1) / 15
    with torch.no_grad():
        plain.model.pos_embed[:, 1:] = ramp
    save_backbone(plain, tmp_path / "plain", provenance={})
    backbone = Backbone(NAME, image_size=(256, 128))
    assert not load_initial_weights(backbone, str(tmp_path / "plain")).is_partial
    assert torch.equal(backbone.model.pos_embed[:, 0], plain.model.pos_embed[:, 0])
    rows = backbone.model.pos_embed[0, 1:].unflatten(0, (21, 10))[:, :, 0]
    assert (rows.diff(dim=0) > -1e-3).all() and rows[0].max() < 0.1 and rows[-1].min() > 0.9

    save_backbone(backbone, tmp_path / "overlapping", provenance={})
    same, taller = Backbone(NAME, image_size=(256, 128)), Backbone(NAME, image_size=(384, 128))
    for again in (same, taller):
        assert not load_initial_weights(again, str(tmp_path / "overlapping")).is_partial
    assert torch.equal(same.model.pos_embed, backbone.model.pos_embed)
    rows = taller.model.pos_embed[0, 1:].unflatten(0, (31, 10))[:, :, 0]
    assert (rows.diff(dim=0) > -1e-3).all() and rows[0].max() < 0.1 and rows[-1].min() > 0.9


def test_weights_of_transreid_with_stride_12_are_read(tmp_path: Path) -> None:
    """Their file says the image size by its number of positions alone."""
    name = "vit_small_patch16_stride12_224"
    theirs = Backbone(name, image_size=(256, 128)).eval()
    torch.save(
        {f"base.{key}": tensor for key, tensor in theirs.model.state_dict().items()}
        | {"bottleneck.weight": torch.ones(384)},
        tmp_path / "theirs.pth",
    )
    checkpoint = open_foreign(tmp_path / "theirs.pth", "transreid")
    same, taller = (Backbone(name, image_size=(height, 128)).eval() for height in (256, 384))
    reports = [fill_backbone(backbone, checkpoint) for backbone in (same, taller)]
    assert not any(report.is_partial for report in reports) and reports[0].mean == (0.5, 0.5, 0.5)
    assert torch.equal(same.model.pos_embed, theirs.model.pos_embed)
    corners = [0, 1, 1 + 9, -1]  # the class token and three corners of the grid
    difference = taller.model.pos_embed[0, corners] - theirs.model.pos_embed[0, corners]
    assert difference.abs().max() < theirs.model.pos_embed.std()
    assert torch.equal(same.model.blocks[3].mlp.fc1.weight, theirs.model.blocks[3].mlp.fc1.weight)
