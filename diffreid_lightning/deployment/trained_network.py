"""Load a trained network, from whatever a run or a conversion leaves, as one module from images to features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffreid_lightning.backbones import FORMS, Backbone, BNNeck, fill_backbone, load_initial_weights
from diffreid_lightning.backbones.timm_folder import CONFIG_FILE, read_timm_folder
from diffreid_lightning.backbones.timm_model import LOCAL_SCHEME
from diffreid_lightning.backbones.weight_sources import EXPORTED
from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import describe_existing
from diffreid_lightning.storage.checkpoint_io import AtomicCheckpointIO
from diffreid_lightning.storage.content_hash import hash_tensors
from diffreid_lightning.storage.yaml_files import parse_yaml

_SETTINGS = "config.yaml"  # of a run
_SETTINGS_KEY = "run_config"  # the same text in its checkpoints


class TrainedNetwork(nn.Module):
    """A network as its run evaluates it, in evaluation mode.

    Args:
        backbone: the backbone, with its weights.
        neck: the batch-norm neck; None compares the features before it.
        flip_average: average the features of an image and its mirror image.
    """

    def __init__(self, backbone: Backbone, neck: BNNeck | None = None, flip_average: bool = False) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=backbone.memory_format)
        self.neck = neck
        self.flip_average = flip_average
        self.eval().requires_grad_(False)

    @property
    def record(self) -> dict[str, Any]:
        """Return what the features depend on, as plain JSON values; ``weights`` is a hash of all tensors."""
        names = ("architecture", "image_size", "last_stride", "pooling", "num_features")
        mean, std = self.backbone.normalization
        return {
            **{name: getattr(self.backbone, name) for name in names},
            "mean": list(mean),
            "std": list(std),
            "feature": "before_bn" if self.neck is None else "after_bn",
            "flip_average": self.flip_average,
            "weights": hash_tensors(self.state_dict()),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B, 3, H, W) RGB images in 0..1; returns (B, D) float32 features, to be compared by cosine."""
        features = self._embed(images)
        return (features + self._embed(images.flip(-1))) / 2 if self.flip_average else features

    def _embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features if self.neck is None else self.neck(features)


def load_trained(path: str | Path) -> TrainedNetwork:
    """Load a trained network to the CPU.

    Args:
        path: a run folder (its exported backbone, else its last checkpoint), a timm folder as ``fit`` and ``convert``
            write it, or a checkpoint file of a Re-ID run. The run's settings decide about neck and mirror image;
            without a run the neck is used where the folder has one.

    Raises:
        UserError: there is none of these, or it is damaged.
    """
    place = user_path(path)
    folder = place / EXPORTED if (place / EXPORTED / CONFIG_FILE).is_file() else place
    if (folder / CONFIG_FILE).is_file():
        return _load_folder(folder)
    file = place / "checkpoints" / "last.ckpt" if place.is_dir() else place
    if file.is_file():
        return _load_checkpoint(file)
    raise UserError(
        f"There is no trained network at {place}",
        looked_for=f"a run folder (with {EXPORTED} or checkpoints/last.ckpt), a timm folder, or a checkpoint file",
        found=describe_existing(place),
        remedy="give a folder that fit or convert has written, such as runs/reid/fit-001",
    )


def _load_folder(folder: Path) -> TrainedNetwork:
    opened = read_timm_folder(folder)
    # The folder may have been copied out of its run, which may in turn have been made before the folder said it.
    noted = opened.provenance.get("training")
    settings = dict(noted) if isinstance(noted, dict) else {}
    if folder.name == EXPORTED:
        settings |= _read_settings(folder.parent / _SETTINGS)
    size = opened.config.image_size
    name = f"{LOCAL_SCHEME}{folder}"
    backbone = Backbone(name, image_size=size or (256, 128))
    neck = BNNeck(backbone.num_features)
    report = load_initial_weights(backbone, name, neck=neck)
    return _assemble(backbone, neck if report.with_neck else None, settings)


def _load_checkpoint(file: Path) -> TrainedNetwork:
    content = AtomicCheckpointIO().load_checkpoint(file, map_location="cpu", weights_only=True)
    state, form = content["state_dict"], FORMS["diffreid"]
    tensors = form.unwrap({"state_dict": state})
    settings = _read_settings(file.parent.parent / _SETTINGS, content.get(_SETTINGS_KEY))
    name, size = settings.get("backbone"), settings.get("image_size")
    if tensors is None or not isinstance(name, str) or not isinstance(size, list) or len(size) != 2:
        raise UserError(
            f"{file} is not a checkpoint of a Re-ID run.",
            looked_for="a backbone among its weights, and model.backbone and data.image_size in its settings",
            remedy="give a run of fit; convert reads backbones of other projects, and weights without settings "
            "(--form diffreid)",
        )
    backbone = Backbone(name, image_size=(int(size[0]), int(size[1])))
    neck = BNNeck(backbone.num_features)
    fill_backbone(backbone, form.open(tensors, str(file)), neck=neck)
    return _assemble(backbone, neck, settings)


def _assemble(backbone: Backbone, neck: BNNeck | None, settings: dict[str, Any]) -> TrainedNetwork:
    used = None if settings.get("feature") == "before_bn" else neck
    return TrainedNetwork(backbone, used, flip_average=settings.get("flip_average") is True)


def _read_settings(file: Path, text: str | None = None) -> dict[str, Any]:
    """Return the arguments of a run's module and data, from a text or its file; none where there is neither."""
    try:
        settings = parse_yaml(text or (file.read_text(encoding="utf-8") if file.is_file() else ""))
    except (OSError, ValueError) as error:
        raise UserError(f"The settings of a run cannot be read: {file}", found=str(error)) from error
    sections = [settings.get(key) if isinstance(settings, dict) else None for key in ("data", "model")]
    found = [section.get("init_args") if isinstance(section, dict) else None for section in sections]
    return {name: value for each in found if isinstance(each, dict) for name, value in each.items()}
