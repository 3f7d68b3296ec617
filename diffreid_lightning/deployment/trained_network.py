"""Load a trained network, from whatever a run or a conversion leaves, as one module from images to features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from diffreid_lightning.storage.yaml_files import parse_yaml

SETTINGS = "config.yaml"  # of a run
_SETTINGS_KEY = "run_config"  # the same text in its checkpoints
_AVERAGE = "teacher."  # before the names of the network that MutualMeanTeaching evaluates


class TrainedNetwork(nn.Module):
    """A network as its run evaluates it: backbone, neck if there is one, and the mirror image if the run used it.

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
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images in pixels."""
        return self.backbone.image_size

    @property
    def record(self) -> dict[str, Any]:
        """Return what its features depend on, as plain JSON values; ``weights`` is a hash of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        mean, std = self.backbone.normalization
        return {
            "architecture": self.backbone.architecture,
            "image_size": list(self.image_size),
            "last_stride": self.backbone.last_stride,
            "pooling": self.backbone.pooling,
            "mean": list(mean),
            "std": list(std),
            "feature": "before_bn" if self.neck is None else "after_bn",
            "flip_average": self.flip_average,
            "num_features": self.backbone.num_features,
            "weights": digest.hexdigest(),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, 3, H, W) RGB in 0..1, not normalized.

        Returns:
            (B, D) float32 features, not of unit length; compare them by cosine.
        """
        features = self._embed(images)
        return (features + self._embed(images.flip(-1))) / 2 if self.flip_average else features

    def _embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features if self.neck is None else self.neck(features)


def load_trained(path: str | Path) -> TrainedNetwork:
    """Load a trained network.

    Args:
        path: a run folder (its exported backbone, else its last checkpoint), a timm folder as ``fit`` and ``convert``
            write it, or a checkpoint file of a Re-ID run.

    Returns:
        The network in evaluation mode on the CPU. The run's settings decide about neck and mirror image; without a run
        the neck is used where the folder has one.

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
        remedy="give the folder that fit has printed, such as --model runs/reid/fit-001, or one that convert has "
        "written",
    )


def _load_folder(folder: Path) -> TrainedNetwork:
    opened = read_timm_folder(folder)
    settings = folder.parent / SETTINGS
    of_run = folder.name == EXPORTED and settings.is_file()
    chosen = _model_settings(settings.read_text(encoding="utf-8"), settings) if of_run else {}
    size = opened.config.image_size
    if size is None:
        raise UserError(
            f"{folder} does not say how large its images are.",
            looked_for="input_size in pretrained_cfg",
            remedy=f'add it to {folder / CONFIG_FILE}: "input_size": [3, 256, 128]',
        )
    name = f"{LOCAL_SCHEME}{folder}"
    backbone = Backbone(name, image_size=size)
    neck = BNNeck(backbone.num_features)
    report = load_initial_weights(backbone, name, neck=neck)
    return _assemble(backbone, neck if report.with_neck else None, chosen)


def _load_checkpoint(file: Path) -> TrainedNetwork:
    content = AtomicCheckpointIO().load_checkpoint(file, map_location="cpu", weights_only=True)
    state = content["state_dict"]
    averaged = {name[len(_AVERAGE) :]: tensor for name, tensor in state.items() if name.startswith(_AVERAGE)}
    form = FORMS["diffreid"]
    tensors = form.unwrap({"state_dict": averaged or state})
    if tensors is None:
        raise UserError(
            f"{file} is not a checkpoint of a Re-ID network.",
            looked_for="backbone.mean among its weights",
            remedy="give a run of SupervisedReID or UnsupervisedReID; convert reads backbones of other projects",
        )
    beside = file.parent.parent / SETTINGS
    text = content.get(_SETTINGS_KEY) or (beside.read_text(encoding="utf-8") if beside.is_file() else "")
    chosen = _model_settings(str(text), file)
    size = chosen.get("image_size")
    if not isinstance(chosen.get("backbone"), str) or not isinstance(size, list) or len(size) != 2:
        raise UserError(
            f"{file} does not say which network its weights belong to.",
            looked_for=f"model.init_args.backbone and data.init_args.image_size in it or in {beside}",
            remedy="convert it: python -m diffreid_lightning convert FILE --form diffreid --backbone NAME --out DIR",
        )
    backbone = Backbone(chosen["backbone"], image_size=(int(size[0]), int(size[1])))
    neck = BNNeck(backbone.num_features)
    fill_backbone(backbone, form.open(tensors, str(file)), neck=neck)
    return _assemble(backbone, neck, chosen)


def _assemble(backbone: Backbone, neck: BNNeck | None, chosen: Mapping[str, Any]) -> TrainedNetwork:
    used = None if chosen.get("feature") == "before_bn" else neck
    return TrainedNetwork(backbone, used, flip_average=chosen.get("flip_average") is True)


def _model_settings(text: str, place: Path) -> dict[str, Any]:
    """Return the arguments of a run's module, and the ``image_size`` of its data."""
    try:
        settings = parse_yaml(text)
    except ValueError as error:
        raise UserError(
            f"The settings of the run cannot be read: {place}", found=str(error), remedy="restore its config.yaml"
        ) from error
    sections = [settings.get(key) if isinstance(settings, dict) else None for key in ("data", "model")]
    arguments = [section.get("init_args") if isinstance(section, dict) else None for section in sections]
    data, model = (found if isinstance(found, dict) else {} for found in arguments)
    return {**({"image_size": data["image_size"]} if "image_size" in data else {}), **model}
