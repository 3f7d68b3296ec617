"""Disk cache of latents: images encoded once by a frozen autoencoder."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.pipeline_io import load_autoencoder
from diffreid_lightning.errors import translate_disk_errors
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.resumable_array import fill_array, holds_array, map_array

_PIXELS = 64 * 256 * 128  # of the images that are encoded at once: a map of SD's encoder takes 512 bytes for each
#: autoencoder settings that its tensors do not show, with the published values
_SETTINGS = {"act_fn": "silu", "norm_num_groups": 32}


class LatentStore:
    """Cache the mean and log-variance of an autoencoder's posterior for each row of a manifest, in half precision.

    Files are named by a hash of the weights, the rows and their image files, so that changed images (by size and time;
    in an archive, by checksum) are encoded again. An interrupted encoding resumes.

    Args:
        autoencoder: folder of an ``AutoencoderKL``, or of a pipeline that has one, or a pipeline's single file.
        cache_dir: folder of the cache.
    """

    def __init__(self, autoencoder: str, cache_dir: str) -> None:
        self.autoencoder = autoencoder
        self.cache_dir = user_path(cache_dir)

    def encode(self, rows: Manifest, image_size: tuple[int, int], mirrored: bool = False) -> Path:
        """Encode the rows that are not cached yet.

        Args:
            rows: the images.
            image_size: height and width in pixels.
            mirrored: encode their mirror images.

        Returns:
            The file: (N, 2C, h, w) float16.

        Raises:
            UserError: an image cannot be read.
            RunError: the disk is full.
        """
        path = self._path(rows, image_size, mirrored)
        if holds_array(path, np.float16, (len(rows), None, None, None)):
            return path
        names = rows.table["file_name"]
        device = fastest_device()
        vae = self._vae.to(device)
        unit = 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (len(rows), 2 * vae.config.latent_channels, image_size[0] // unit, image_size[1] // unit)

        def moments(start: int, end: int) -> npt.NDArray[np.float16]:
            views = [evaluation_view(rows.images.image(names[row].as_py()), image_size) for row in range(start, end)]
            images = torch.stack(views).to(device)
            return self._moments(images.flip(-1) if mirrored else images).cpu().numpy()

        with translate_disk_errors(f"Latents cannot be written to {self.cache_dir}", "free disk space, run again"):
            at_once = max(1, min(64, _PIXELS // (image_size[0] * image_size[1])))
            fill_array(path, shape, np.float16, at_once, moments, f"encoding {len(rows)} images")
        rank_zero_info(f"{len(rows)} images encoded: {path}")
        return path

    def open(self, rows: Manifest, image_size: tuple[int, int], mirrored: bool = False) -> npt.NDArray[np.float16]:
        """Memory-map the latents of encoded rows, (N, 2C, h, w)."""
        path = self._path(rows, image_size, mirrored)
        return map_array(path, np.float16, (len(rows), None, None, None), remedy=f"remove {path}: it is written again")

    @cached_property
    def _vae(self) -> Any:
        return load_autoencoder(self.autoencoder).eval().requires_grad_(False)

    @cached_property
    def _weights(self) -> bytes:
        """Hash of the autoencoder's tensors and unusual settings."""
        unusual = {name: self._vae.config[name] for name, usual in _SETTINGS.items() if self._vae.config[name] != usual}
        digest = hashlib.sha256(json.dumps(unusual, sort_keys=True).encode() if unusual else b"")
        for name, tensor in sorted(self._vae.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.digest()

    @torch.no_grad()
    def _moments(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self._vae.encode(images.float() / 127.5 - 1).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).half()

    def _path(self, rows: Manifest, image_size: tuple[int, int], mirrored: bool) -> Path:
        work = [rows.content_hash, rows.file_fingerprint, image_size, *(["mirrored"] if mirrored else [])]
        digest = hashlib.sha256(json.dumps(work).encode())
        digest.update(self._weights)
        return self.cache_dir / f"{digest.hexdigest()[:24]}.npy"
