"""Exported folders: what stock timm makes of them, what init_from makes of them, and what an interruption leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch

import diffreid_lightning
from diffreid_lightning.backbones import Backbone, BNNeck, load_initial_weights, save_backbone
from diffreid_lightning.backbones.timm_folder import read_timm_folder
from diffreid_lightning.errors import RunError, UserError
from tests.fixtures import small_architectures  # noqa: F401

SIZE = (128, 64)
TINY, TINY_FEATURES = "test_resnet", 96  # timm's own miniature, for what does not depend on the architecture
IMAGES = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def trained(name: str, **arguments: object) -> Backbone:
    """A backbone whose every tensor, buffers included, differs from a fresh one."""
    backbone = Backbone(name, image_size=SIZE, **arguments)
    with torch.no_grad():
        for tensor in backbone.model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
        if backbone.pool is not None:
            backbone.pool.p.fill_(2.7182817)
    return backbone.eval()


@pytest.mark.parametrize("pooling", ["avg", "native"])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100", "convnext_atto", "small_swin"],
)
def test_stock_timm_gives_the_same_features(name: str, pooling: str, tmp_path: Path) -> None:
    backbone = trained(name, pooling=pooling, last_stride=2)
    save_backbone(backbone, tmp_path / "export", provenance={})
    stock = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert stock.num_classes == 0
    config = stock.pretrained_cfg
    assert tuple(config["input_size"]) == (3, *SIZE)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = IMAGES.contiguous(memory_format=torch.channels_last)  # as the backbone reads them on the CPU
    with torch.no_grad():
        features = stock.forward_features((images - mean) / std)
        head = stock.forward_head(features, pre_logits=True)
        if pooling == "avg":
            axes = {"vit_tiny_patch16_224": 1, "small_swin": (1, 2)}.get(name, (2, 3))
            head = (features[:, 1:] if name.startswith("vit") else features).mean(axes)
        assert torch.equal(backbone(IMAGES), head)


PAGE = Path(__file__).parents[3] / "docs" / "guide" / "weights.md"


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("resnet18", "avg"),
        ("resnet18", "gem"),
        ("vit_tiny_patch16_224", "avg"),
        ("deit_tiny_distilled_patch16_224", "native"),
        ("mobilenetv4_conv_small", "gem"),
        ("tf_efficientnet_lite0", "gem"),
        ("convnext_atto", "avg"),
        ("small_swin", "gem"),
    ],
)
def test_docs_give_the_measured_features_without_this_package(name: str, pooling: str, tmp_path: Path) -> None:
    backbone = Backbone(name, image_size=SIZE, pooling=pooling).eval()
    if backbone.pool is not None:
        torch.nn.init.constant_(backbone.pool.p, 2.7182817)
    save_backbone(backbone, tmp_path / "export", provenance={})
    lines = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert "diffreid_lightning" not in lines
    names = {"images": IMAGES}
    with torch.no_grad():
        exec(lines.replace("runs/bot_market1501/fit-001/backbone", str(tmp_path / "export")), names)
        expected = backbone(IMAGES)
    assert names["features"].shape == expected.shape and torch.isfinite(expected).all() and expected.std() > 0
    torch.testing.assert_close(names["features"], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("form", ["checkpoint", "folder"])
def test_variation_travels_with_the_weights(form: str, tmp_path: Path) -> None:
    backbone, again, plain = (Backbone(TINY, image_size=SIZE).eval() for _ in range(3))
    backbone.set_variant("ceil_stem")
    if form == "folder":
        save_backbone(backbone, tmp_path / "export", provenance={})
        load_initial_weights(again, str(tmp_path / "export"))
    else:
        again.load_state_dict(backbone.state_dict())
    plain.model.load_state_dict(backbone.model.state_dict())
    with torch.no_grad():
        assert again.variant == "ceil_stem"
        assert torch.equal(again(IMAGES), backbone(IMAGES))
        assert not torch.allclose(plain(IMAGES), backbone(IMAGES))
    assert len(plain.get_extra_state()) == 2, "as checkpoints of before hold it"


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
@pytest.mark.parametrize("pooling", ["gem", "native"])
def test_init_from_applies_the_recorded_network_again(name: str, pooling: str, tmp_path: Path) -> None:
    backbone = trained(name, pooling=pooling, last_stride=1, mean=(0.3, 0.4, 0.5))
    save_backbone(backbone, tmp_path / "export", provenance={})
    again = Backbone(name, image_size=SIZE).eval()
    report = load_initial_weights(again, f"local-dir:{tmp_path / 'export'}")
    with torch.no_grad():
        assert torch.equal(again(IMAGES), backbone(IMAGES))
    assert (report.last_stride, report.pooling, report.mean) == (backbone.last_stride, pooling, (0.3, 0.4, 0.5))
    assert not report.is_partial
    assert report.overridden == ()


def test_recorded_stride_two_wins_over_the_default_of_one(tmp_path: Path) -> None:
    backbone = trained(TINY, pooling="avg", last_stride=2)
    save_backbone(backbone, tmp_path / "export", provenance={})
    again = Backbone(f"local-dir:{tmp_path / 'export'}", image_size=SIZE).eval()
    assert again.architecture == TINY
    load_initial_weights(again, "timm")  # the weights that belong to the name
    with torch.no_grad():
        assert torch.equal(again(IMAGES), backbone(IMAGES))


def test_contradiction_is_reported_and_the_argument_wins(tmp_path: Path) -> None:
    save_backbone(trained(TINY, last_stride=2), tmp_path / "export", provenance={})
    again = Backbone(TINY, image_size=SIZE, last_stride=1, pooling="avg")
    with pytest.warns(UserWarning, match="Leave the argument out"):
        report = load_initial_weights(again, str(tmp_path / "export"))
    assert (report.last_stride, report.pooling) == (1, "avg")
    assert [sentence.split("with ")[1].split(",")[0] for sentence in report.overridden] == [
        "last_stride 2",
        "pooling gem",
    ]


def test_files_say_what_the_weights_are(tmp_path: Path) -> None:
    backbone = trained(TINY)
    save_backbone(backbone, tmp_path / "a" / "export", provenance={"recipe": "bot", "sources": {"m": "sha256:0"}})
    folder = tmp_path / "a" / "export"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "provenance.json",
        "reid_head.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    record = json.loads((folder / "provenance.json").read_text())
    assert record["training"] == {"recipe": "bot", "sources": {"m": "sha256:0"}}
    assert record["package_version"] == diffreid_lightning.__version__
    assert (record["architecture"], record["image_size"]) == (TINY, [128, 64])
    assert (record["last_stride"], record["pooling"]) == (1, "gem")
    assert record["gem_exponent"] == pytest.approx(2.7182817)
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (TINY, 0, TINY_FEATURES)
    assert config["pretrained_cfg"]["license"] is None  # timm's license is that of timm's weights


def test_equal_backbones_give_equal_bytes(tmp_path: Path) -> None:
    backbone = trained(TINY)
    for name in ("a", "b"):
        save_backbone(backbone.train(name == "a"), tmp_path / name, provenance={"b": 1, "a": 2})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_neck_is_saved_beside_and_follows_the_weights(tmp_path: Path) -> None:
    backbone, neck = trained(TINY), BNNeck(TINY_FEATURES)
    neck(torch.randn(32, TINY_FEATURES) * 2 + 1)
    save_backbone(backbone, tmp_path / "export", provenance={}, neck=neck)
    features = torch.randn(4, TINY_FEATURES)
    folder = f"local-dir:{tmp_path / 'export'}"
    for name, init_from in (TINY, folder), (TINY, str(tmp_path / "export/model.safetensors")), (folder, "timm"):
        again = BNNeck(64)
        report = load_initial_weights(Backbone(name, image_size=SIZE), init_from, neck=again)
        assert report.with_neck and "neck" in str(report)
        assert torch.equal(again.eval()(features), neck.eval()(features))

    fresh = BNNeck(64)
    with pytest.warns(UserWarning, match="pooling"):  # other features than this neck knows
        report = load_initial_weights(Backbone(TINY, image_size=SIZE, pooling="avg"), folder, neck=fresh)
    assert not report.with_neck and not fresh.norm.running_mean.any()
    assert fresh.norm.num_features == TINY_FEATURES
    save_backbone(backbone, tmp_path / "export", provenance={})
    assert not load_initial_weights(Backbone(TINY, image_size=SIZE), folder, neck=fresh).with_neck


def test_earlier_export_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    save_backbone(trained(TINY), folder, provenance={"run": 1})
    save_backbone(trained(TINY, pooling="avg"), folder, provenance={"run": 2})
    opened = read_timm_folder(folder)
    assert opened.provenance["training"] == {"run": 2}
    assert opened.provenance["pooling"] == "avg"
    assert not (folder / "reid_head.safetensors").exists()  # the GeM exponent of the first run is gone
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    "step", ["backbones.timm_export._write_model", "backbones.timm_export._write_head", "storage.atomic.exchange"]
)
@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()], ids=["full-disk", "interrupt"])
def test_failure_leaves_the_earlier_export(
    step: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    save_backbone(trained(TINY), folder, provenance={"run": 1})

    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(f"diffreid_lightning.{step}", fail)
    with pytest.raises(RunError if isinstance(failure, OSError) else KeyboardInterrupt):
        save_backbone(trained(TINY), folder, provenance={"run": 2})
    assert read_timm_folder(folder).provenance["training"] == {"run": 1}
    load_initial_weights(Backbone(TINY, image_size=SIZE), str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_failing_exchange_puts_the_earlier_export_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "export"
    save_backbone(trained(TINY), folder, provenance={"run": 1})
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("stale file handle")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(RunError, match="still there"):
        save_backbone(trained(TINY), folder, provenance={"run": 2})
    assert read_timm_folder(folder).provenance["training"] == {"run": 1}


def test_kill_between_the_renames_leaves_the_earlier_export_and_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    save_backbone(trained(TINY), folder, provenance={"run": 1})
    folder.rename(tmp_path / ".export.previous")
    with pytest.raises(UserError, match="rename it back") as caught:
        read_timm_folder(folder)
    assert ".export.previous" in str(caught.value)
    save_backbone(trained(TINY), folder, provenance={"run": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("content", ["notes.txt", "config.json"])
def test_folder_with_something_else_is_not_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / content).write_text("{}")
    with pytest.raises(UserError, match="not replaced"):
        save_backbone(trained(TINY), tmp_path / "mine", provenance={})
    assert (tmp_path / "mine" / content).read_text() == "{}"


def test_unwritable_provenance_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_backbone(trained(TINY), tmp_path / "export", provenance={"when": object()})
    assert list(tmp_path.iterdir()) == []
