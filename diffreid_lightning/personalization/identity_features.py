"""Mean image feature of each identity, computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone, load_initial_weights
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import UserError, check_image_size, translate_disk_errors
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.content_hash import hash_tensors
from diffreid_lightning.storage.resumable_array import fill_array, holds_array, map_array

_BATCH = 64


class IdentityFeatures:
    """Mean features of identities, by any backbone that Re-ID training can start from.

    Args:
        backbone: a timm name, or ``local-dir:FOLDER`` of an exported backbone.
        init_from: its weights, as for :func:`~diffreid_lightning.backbones.load_initial_weights`; ``timm`` takes the
            folder's own.
        image_size: height and width in pixels that images are resized to.
        cache_dir: folder of the cached image features.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        init_from: str = "efficientnet-lite0",
        image_size: tuple[int, int] = (128, 64),
        cache_dir: str = "runs/cache/features",
    ) -> None:
        check_image_size("IdentityFeatures.image_size", image_size)
        if init_from is None:  # a configuration may say so
            raise UserError(
                "IdentityFeatures needs a trained network: random weights are others in every process.",
                looked_for="init_from",
                remedy="give weights as for model.init_from, or timm for those of an exported backbone's folder",
            )
        self.backbone = backbone
        self.init_from = init_from
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.cache_dir = user_path(cache_dir)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that reproduce the features, as plain JSON values."""
        size = list(self.image_size)
        return {"backbone": self.backbone, "init_from": self.init_from, "image_size": size, "weights": self._weights}

    def encode(self, rows: Manifest) -> None:
        """Compute the features of the rows that are not cached yet; on one process.

        Raises:
            UserError: an image cannot be read, or the network is not available.
            RunError: the disk is full.
        """
        path = self._path(rows)
        if holds_array(path, np.float32, (len(rows), self._network.num_features)):
            return
        names = rows.table["file_name"]
        device = fastest_device()
        network = self._network.to(device)

        def features(start: int, end: int) -> npt.NDArray[np.float32]:
            views = [
                evaluation_view(rows.images.image(names[row].as_py()), self.image_size) for row in range(start, end)
            ]
            with torch.no_grad():
                answer = network(torch.stack(views).to(device).float() / 255)
            return nn.functional.normalize(answer.float(), dim=1).cpu().numpy()

        with translate_disk_errors(f"Features cannot be written to {self.cache_dir}", "free disk space, run again"):
            shape = (len(rows), self._network.num_features)
            fill_array(path, shape, np.float32, _BATCH, features, f"features of {len(rows)} images")

    def of_identities(self, rows: Manifest) -> Tensor:
        """Average over each identity's images.

        Args:
            rows: images that were encoded.

        Returns:
            (N, F) float32, in the order of ``rows.identities()``; means of features of unit length.
        """
        labels, keys = rows.identities()
        path, shape = self._path(rows), (len(rows), self._network.num_features)
        mapped = map_array(path, np.float32, shape, remedy=f"remove {path}: it is written again")
        features = torch.from_numpy(np.array(mapped))
        numbers = torch.from_numpy(labels)
        sums = torch.zeros(len(keys), features.shape[1]).index_add_(0, numbers, features)
        return sums / torch.bincount(numbers, minlength=len(keys))[:, None]

    @cached_property
    def _network(self) -> Backbone:
        network = Backbone(self.backbone, image_size=self.image_size)
        load_initial_weights(network, self.init_from)
        return network.eval().requires_grad_(False)

    @cached_property
    def _weights(self) -> str:
        return hash_tensors(self._network.state_dict())

    def _path(self, rows: Manifest) -> Path:
        work = json.dumps([rows.content_hash, rows.file_fingerprint, self.settings], sort_keys=True)
        return self.cache_dir / f"{hashlib.sha256(work.encode()).hexdigest()[:24]}.npy"
