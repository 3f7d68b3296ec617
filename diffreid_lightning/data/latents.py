"""Latents on disk: images encoded once by a frozen autoencoder, kept under the content of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track

from diffreid_lightning.data.transforms import evaluation_view
from diffreid_lightning.diffusion.folder import load_autoencoder
from diffreid_lightning.errors import RunError
from diffreid_lightning.manifest import Manifest

_BATCH = 64


class LatentStore:
    """Mean and log-variance of an autoencoder's posterior for each row of a manifest: half-precision arrays on disk.

    A killed encoding goes on where it was; the finished file is renamed into place.

    Args:
        autoencoder: folder of an ``AutoencoderKL``, or of a pipeline that has one.
        cache_dir: where the files are kept.
    """

    def __init__(self, autoencoder: str, cache_dir: str) -> None:
        self.autoencoder = autoencoder
        self.cache_dir = Path(cache_dir)
        self._vae: Any = None

    def encode(self, rows: Manifest, image_size: tuple[int, int]) -> Path:
        """Encode the rows, unless they are.

        Args:
            rows: the images.
            image_size: height and width in pixels.

        Returns:
            The file: (N, 2C, h, w) float16.

        Raises:
            UserError: an image cannot be read.
            RunError: the disk is full.
        """
        path = self._path(rows, image_size)
        if path.exists():
            return path
        vae, names = self._loaded(), rows.table["file_name"]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        vae = vae.to(device)
        unit = 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (len(rows), 2 * vae.config.latent_channels, image_size[0] // unit, image_size[1] // unit)
        part, mark = path.with_suffix(".part.npy"), path.with_suffix(".done")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = part.exists() and mark.exists()
            done = int(mark.read_text()) if begun else 0
            store = np.lib.format.open_memmap(part, "r+" if begun else "w+", dtype=np.float16, shape=shape)
            batches = range(done, len(rows), _BATCH)
            for start in track(batches, description=f"encoding {len(rows)} images"):
                chosen = [names[row].as_py() for row in range(start, min(start + _BATCH, len(rows)))]
                views = [evaluation_view(rows.images.image(name), image_size) for name in chosen]
                store[start : start + len(chosen)] = self._moments(torch.stack(views).to(device)).cpu().numpy()
                store.flush()
                mark.write_text(str(start + len(chosen)))
            del store
            part.replace(path)
            mark.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"Latents cannot be kept in {self.cache_dir}", found=str(error), remedy="free disk space and go on"
            ) from error
        rank_zero_info(f"{len(rows)} images encoded: {path}")
        return path

    def open(self, rows: Manifest, image_size: tuple[int, int]) -> npt.NDArray[np.float16]:
        """Map the rows' latents, (N, 2C, h, w), without reading them; they must have been encoded."""
        return np.load(self._path(rows, image_size), mmap_mode="r")

    def _loaded(self) -> Any:
        if self._vae is None:
            self._vae = load_autoencoder(self.autoencoder).eval().requires_grad_(False)
        return self._vae

    @torch.no_grad()
    def _moments(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self._loaded().encode(images.float() / 127.5 - 1).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).half()

    def _path(self, rows: Manifest, image_size: tuple[int, int]) -> Path:
        digest = hashlib.sha256(json.dumps([rows.content_hash, image_size]).encode())
        for name, tensor in sorted(self._loaded().state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return self.cache_dir / f"{digest.hexdigest()[:24]}.npy"
