"""Network that reads the attributes of a person crop, and the folder it is stored in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.storage.atomic import replace_folder

Values = Mapping[str, tuple[str, ...]]
"""The words for each value of each attribute that a network reads."""

SIZE = (128, 64)  #: height and width of its images in pixels
TINY_READER = "tiny-reader"  #: name of the weights that ship with the package
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class _Block(nn.Module):
    """Two convolutions with a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.around: nn.Module = nn.Identity()
        if stride > 1 or inputs != channels:
            self.around = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.norms[0](self.first(maps)))
        return torch.relu(self.norms[1](self.second(inner)) + self.around(maps))


class AttributeNetwork(nn.Module):
    """Classify the attributes of person crops of 128×64 pixels by a residual network with one head per attribute.

    The last map, 8×4 positions, is not pooled: which garment a color belongs to depends on where it is.

    Args:
        values: the attributes and their words.
        channels: of the stem and the three stages.
        dropout: of the last map, 0 to 1.
    """

    def __init__(
        self, values: Values, channels: tuple[int, int, int, int] = (32, 64, 128, 192), dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.values = {name: tuple(words) for name, words in values.items()}
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        for inputs, width in pairwise(channels):
            stages += [_Block(inputs, width, 2), _Block(width, width, 1)]
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(channels[-1] * 8 * 4, len(words)) for words in self.values.values())
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Score every value of every attribute.

        Args:
            images: (B, 3, 128, 64) in 0..1.

        Returns:
            (B, V) logits, attribute after attribute in the order of ``values``.
        """
        maps = self.stages(self.stem((images - 0.45) / 0.25))
        features = self.dropout(maps.flatten(1))
        return torch.cat([head(features) for head in self.heads], dim=1)

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``config.json`` and, in half precision, ``model.safetensors``; an earlier folder is replaced."""
        config = {"values": self.values, "channels": self.channels, "image_size": SIZE, "provenance": dict(provenance)}
        tensors = {
            name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
            for name, tensor in self.state_dict().items()
        }
        with replace_folder(folder) as staged:
            (staged / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
            save_file(tensors, staged / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> AttributeNetwork:
        """Load a saved network in float32, ready for evaluation.

        Raises:
            UserError: the folder is missing or damaged.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            network = cls(config["values"], tuple(config["channels"]))
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"There is no attribute reader in {folder}",
                looked_for=f"{CONFIG} and {WEIGHTS}, as its training writes them",
                found=f"{type(error).__name__}: {first_line(error)}",
                remedy=f"give {TINY_READER}, or the folder reader/ of a run that has trained one",
            ) from error
        return network.eval().requires_grad_(False)


def split_logits(logits: Tensor, values: Values) -> tuple[Tensor, ...]:
    """Split (B, V) logits into one (B, words) tensor per attribute."""
    return logits.split([len(words) for words in values.values()], dim=1)


def average_mirrored(logits: Tensor, mirrored: Tensor, values: Values) -> dict[str, Tensor]:
    """Average the logits of images and of their mirror images, in which left and right have changed places.

    Args:
        logits: (B, V) of the images.
        mirrored: (B, V) of the same images, mirrored.
        values: the attributes and their words, V in all.

    Returns:
        (B, words) for each attribute.
    """
    pairs = zip(values.items(), split_logits(logits, values), split_logits(mirrored, values), strict=True)
    return {name: (one + other[:, mirrored_order(words)]) / 2 for (name, words), one, other in pairs}


def mirrored_order(words: tuple[str, ...]) -> list[int]:
    """Number the words of an attribute as they are after a horizontal flip: left and right change places."""
    swapped = [" ".join({"left": "right", "right": "left"}.get(w, w) for w in word.split(" ")) for word in words]
    return [words.index(word) if word in words else place for place, word in enumerate(swapped)]
