"""Pictures in memory: read from a manifest, passed through an autoencoder, told apart by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.pipeline_io import load_autoencoder
from diffreid_lightning.manifest.manifest import Manifest

SIZE = (128, 64)
"""Height and width in pixels of every picture here."""

_BATCH = 64


def read_pictures(rows: Manifest) -> Tensor:
    """Read the images of a manifest.

    Returns:
        (N, 3, H, W) uint8 of :data:`SIZE`.

    Raises:
        UserError: an image is missing or broken.
    """
    pictures = torch.empty((len(rows), 3, *SIZE), dtype=torch.uint8)
    for number, name in enumerate(rows.table["file_name"].to_pylist()):
        pictures[number] = evaluation_view(rows.images.image(name), SIZE)
    return pictures


def to_floats(pictures: Tensor) -> Tensor:
    """Bytes, (N, 3, H, W), as numbers in 0..1."""
    return pictures.float().div_(255)


def to_bytes(images: Tensor) -> Tensor:
    """Numbers, (N, 3, H, W), as the nearest bytes; what lies outside 0..1 is cut off."""
    return images.float().clamp(0, 1).mul(255).round().byte()


@torch.no_grad()
def outputs(network: nn.Module, pictures: Tensor) -> Tensor:
    """Run a network over pictures, in evaluation mode and single precision, as a GPU's convolutions have it (TF32).

    Args:
        network: takes (B, 3, H, W) in 0..1; it is left on :func:`fastest_device`.
        pictures: (N, 3, H, W) uint8, on the CPU.

    Returns:
        (N, ...) what it makes of them, on the CPU.
    """
    device = fastest_device()
    network.to(device).eval()
    return torch.cat([network(to_floats(batch.to(device))).cpu() for batch in pictures.split(_BATCH)])


class _Reconstruction(nn.Module):
    """Decode the mean of the latents."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        mean = self.autoencoder.encode(images * 2 - 1).latent_dist.mode()
        return to_bytes(self.autoencoder.decode(mean).sample / 2 + 0.5)


def reconstruct(folder: Path, pictures: Tensor) -> Tensor:
    """Pass pictures through an autoencoder.

    Args:
        folder: the autoencoder's, or that of a pipeline that has one.
        pictures: (N, 3, H, W) uint8.

    Returns:
        (N, 3, H, W) uint8.

    Raises:
        UserError: there is no autoencoder.
    """
    return outputs(_Reconstruction(load_autoencoder(folder)), pictures)


def quiet_loaders() -> None:
    """Keep the model loaders' own bars and hints off the screen."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def content_key(*parts: Any) -> str:
    """A short name for what decides a result: 16 hexadecimal digits of the SHA-256 of the parts as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
