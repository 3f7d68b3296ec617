"""Calibrate a scorer's temperature by cross-fitting: logits of images that the network was not trained on.

Cross-fitting holds each real image out once:

* :class:`FoldNetworks` trains a whole network for each fold, beside the scorer, in the same run. No network has seen
  its held-out images, so the confidence is valid for new (generated) images. ``folds`` networks on 1 - 1 / ``folds``
  of the images each make the training ``folds`` times as long.
* :class:`FoldHeads` trains only a classifier for each fold, on the embeddings of the trained network. It takes seconds,
  but the network has seen the held-out images: their logits are too certain, and the temperature is too low.
* :class:`Uncalibrated` keeps the softmax.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range, check_seed
from diffreid_lightning.filtering.scores import fit_temperature, negative_log_likelihood


@dataclass(frozen=True)
class Fitted:
    """Fitted temperatures of a scorer, with statistics of the fit.

    Args:
        temperatures: (C,) one for each identity: the fitted one, 1 where no image could be held out.
        temperature: the fitted one.
        reason: why nothing was fitted and T is 1; None when it was fitted.
        single: (K,) identities with one image, whose temperature is 1.
        images: number of held-out images.
        accuracy: share of them that were recognized, 0 to 1; NaN without any.
        nll: their mean negative log-likelihood at T = 1 and at the fitted T; NaN without any.
    """

    temperatures: Tensor
    temperature: float
    reason: str | None
    single: npt.NDArray[np.int64]
    images: int = 0
    accuracy: float = float("nan")
    nll: tuple[float, float] = (float("nan"), float("nan"))


class Calibration(ABC):
    """Calibration method.

    Args:
        folds: parts of the training images, each held out once; at least 2.
        seed: of the images' distribution over the folds.
    """

    def __init__(self, folds: int = 3, seed: int = 0) -> None:
        check_range("calibration.folds", folds, 2, 100)
        check_seed("calibration.seed", seed)
        self.folds = folds
        self.seed = seed

    @property
    def networks(self) -> int:
        """Number of networks trained beside the scorer, the k-th without the images of fold k."""
        return 0

    @abstractmethod
    def held_out_logits(self, embeddings: Tensor, labels: Tensor, folds: Tensor, by_networks: Tensor) -> Tensor | None:
        """Return (N, C) logits of each image by a model that was trained without it; None for no calibration.

        Args:
            embeddings: (N, D) of the training images, by the trained scorer.
            labels: (N,) their identities.
            folds: (N,) from :func:`~.scores.assign_folds`.
            by_networks: (N, C) logits by the network of the image's fold; (0, C) when there are none.
        """

    def head(self, embeddings: Tensor, labels: Tensor, classifier: Tensor) -> Tensor:
        """Return the classifier for the temperature, (C, D); by default the trained one."""
        return classifier


class FoldNetworks(Calibration):
    """Hold images out from whole networks, trained beside the scorer; see the module docstring."""

    @property
    def networks(self) -> int:
        """Number of folds."""
        return self.folds

    def held_out_logits(self, embeddings: Tensor, labels: Tensor, folds: Tensor, by_networks: Tensor) -> Tensor | None:
        """Return the logits of the fold networks."""
        return by_networks


class FoldHeads(Calibration):
    """Hold images out from classifiers only, fitted to the trained network's embeddings; see the module docstring.

    They are fitted to convergence, so the scorer's own classifier is replaced by one fitted to all images in the same
    way, for which the temperature is valid.

    Args:
        folds: parts of the training images, each held out once; at least 2.
        seed: of the images' distribution over the folds.
        smoothing: of the labels, as in training, in [0, 1).
    """

    def __init__(self, folds: int = 5, seed: int = 0, smoothing: float = 0.1) -> None:
        super().__init__(folds, seed)
        check_range("calibration.smoothing", smoothing, 0, 1, below=True)
        self.smoothing = smoothing

    def held_out_logits(self, embeddings: Tensor, labels: Tensor, folds: Tensor, by_networks: Tensor) -> Tensor | None:
        """Fit a classifier without each fold."""
        count = int(labels.max()) + 1
        logits = embeddings.new_zeros(len(embeddings), count)
        for fold in range(self.folds):
            out = folds == fold
            if out.any():
                weight = self._fit(embeddings[~out], labels[~out], count)
                logits[out] = embeddings[out] @ weight.T
        return logits

    def head(self, embeddings: Tensor, labels: Tensor, classifier: Tensor) -> Tensor:
        """Fit the classifier to all images."""
        return self._fit(embeddings, labels, len(classifier))

    def _fit(self, embeddings: Tensor, labels: Tensor, count: int) -> Tensor:
        weight = embeddings.new_zeros(count, embeddings.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(embeddings @ weight.T, labels, label_smoothing=self.smoothing)
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        return weight.detach()


class Uncalibrated(Calibration):
    """Keep the softmax, T = 1."""

    def __init__(self) -> None:
        super().__init__()

    def held_out_logits(self, embeddings: Tensor, labels: Tensor, folds: Tensor, by_networks: Tensor) -> Tensor | None:
        """Return None."""
        return None


def calibrate(held_out: Tensor | None, labels: Tensor, folds: Tensor, count: int) -> Fitted:
    """Fit the temperature to held-out logits.

    Args:
        held_out: (N, C) logits of each image by a model that was trained without it; None leaves T at 1.
        labels: (N,) identities.
        folds: (N,) folds; images of fold -1 were never held out.
        count: C.

    Returns:
        The temperatures. An identity with one image keeps T = 1: its image cannot be held out.
    """
    # Only the single image of an identity has fold -1.
    single = labels[folds < 0].unique().cpu().numpy()
    usable = folds >= 0
    if held_out is None or not usable.any():
        reason = "calibration is switched off" if held_out is None else "every identity has one image"
        return Fitted(torch.ones(count), 1.0, reason, single)
    logits, own = held_out[usable], labels[usable]
    temperature = fit_temperature(logits, own)
    temperatures = torch.full((count,), temperature)
    temperatures[single] = 1.0
    return Fitted(
        temperatures,
        temperature,
        None,
        single,
        images=len(own),
        accuracy=float((logits.argmax(dim=1) == own).float().mean()),
        nll=(negative_log_likelihood(logits, own), negative_log_likelihood(logits, own, temperature)),
    )
