"""Network that maps an identity's image feature to its prompt vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffreid_lightning.backbones.timm_folder import read_safetensors
from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.storage.json_notes import read_json, write_json

MAPPER_FILE = "mapper.safetensors"
SETTINGS_FILE = "mapper.json"
_SHAPE = {"features": int, "hidden": int, "vectors": int, "widths": [int]}
#: arguments of IdentityFeatures, and a hash of its weights
_FEATURES = {"backbone": str, "init_from": str, "image_size": [int], "weights": str}
_REMEDY = "export the model again, or restore the files"


class TokenMapper(nn.Module):
    """Two-layer MLP on standardized features; its output is an offset from a word's embedding.

    Args:
        features: F, dimensions of a feature.
        hidden: width of the hidden layer.
        vectors: V, vectors of an identity.
        widths: dimensions of a vector, for each text encoder.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: int, vectors: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.shape = {"features": features, "hidden": hidden, "vectors": vectors, "widths": list(widths)}
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, vectors * sum(widths)))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("word", torch.zeros(sum(widths)))
        self.register_buffer("spread", torch.ones(sum(widths)))

    @torch.no_grad()
    def initialize(self, features: Tensor, words: Sequence[Tensor], spreads: Sequence[Tensor], amount: float) -> None:
        """Set the standardization, the word and the scale of the last layer.

        Args:
            features: (N, F) training features.
            words: (dim,) for each text encoder, embedding that outputs are added to.
            spreads: (dim,) for each text encoder, unit of the outputs.
            amount: approximate standard deviation of the initial outputs, in that unit.
        """
        self.mean.copy_(features.mean(dim=0))
        # One identity has no deviation.
        deviation = (features - self.mean).square().mean(dim=0).sqrt() if len(features) > 1 else self.scale
        # A floor, so that a feature that is constant here does not dominate for new identities.
        self.scale.copy_(deviation.clamp(min=float(deviation.mean()) * 0.1 + 1e-6))
        self.get_buffer("word").copy_(torch.cat(list(words)))
        self.get_buffer("spread").copy_(torch.cat(list(spreads)))
        answers = self.layers((features - self.mean) / self.scale)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(amount / answers.std().clamp(min=1e-6) if len(features) > 1 else amount)
        last.bias.zero_()

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features.

        Args:
            features: (n, F) mean image features.

        Returns:
            For each text encoder (n, V, dim) float32.
        """
        answer = self.layers((features - self.mean) / self.scale).float()
        answer = answer.unflatten(1, (self.shape["vectors"], -1))
        vectors = self.get_buffer("word") + self.get_buffer("spread") * answer
        return list(vectors.split(self.shape["widths"], dim=2))

    def save(self, folder: Path, features: Mapping[str, Any]) -> None:
        """Write ``mapper.safetensors`` and ``mapper.json``.

        Args:
            folder: output folder.
            features: settings of the features that it was trained on.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / MAPPER_FILE, metadata={"format": "pt"})
        write_json(folder / SETTINGS_FILE, {"shape": self.shape, "features": dict(features)})


def load_mapper(folder: Path) -> tuple[TokenMapper, dict[str, Any]]:
    """Read a mapper.

    Args:
        folder: of a personalized model.

    Returns:
        The network in evaluation mode, and the settings of the features it was trained on.

    Raises:
        UserError: there is none, or its files are damaged.
    """
    if not (folder / SETTINGS_FILE).is_file():
        raise UserError(
            f"The model at {folder} has only the identities it was trained on.",
            looked_for=f"{SETTINGS_FILE} and {MAPPER_FILE}",
            remedy="train it with MappedTokens as model.tokens",
        )
    try:
        noted = read_json(folder / SETTINGS_FILE, {"shape": _SHAPE, "features": _FEATURES}, remedy=_REMEDY)
        tensors = read_safetensors(folder / MAPPER_FILE)
        if not _fits(noted["shape"], tensors):  # before a network of that shape is built
            raise ValueError(f"tensors of {MAPPER_FILE} and the shape in {SETTINGS_FILE} do not match")
        mapper = TokenMapper(**{name: noted["shape"][name] for name in _SHAPE})
        mapper.load_state_dict(tensors)
        return mapper.eval().requires_grad_(False), {name: noted["features"][name] for name in _FEATURES}
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The mapper at {folder} cannot be read.",
            found=first_line(error),
            remedy=_REMEDY,
        ) from error


def _fits(shape: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    first, last = tensors.get("layers.0.weight"), tensors.get("layers.2.weight")
    hidden, answers = shape["hidden"], shape["vectors"] * sum(shape["widths"])
    return (
        first is not None
        and last is not None
        and first.shape == (hidden, shape["features"])
        and last.shape == (answers, hidden)
        and all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in tensors.values())
    )
