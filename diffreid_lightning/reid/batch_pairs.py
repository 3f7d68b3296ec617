"""Check that batches hold the pairs that losses between images compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.losses.base import MetricLoss

#: what samplers of batches of P labels with K images each call the two
_SIZES = ("identities_per_batch", "images_per_identity", "clusters_per_batch", "images_per_cluster")


def comparing_losses(module: nn.Module) -> list[str]:
    """Name the losses of a module that compare images with one another and count."""
    lists = [each for each in module.modules() if isinstance(each, LossList)]
    compare = [loss for each in lists for loss in each if isinstance(loss, MetricLoss) and loss.weight]
    return sorted({type(loss).__name__ for loss in compare})


def samplers_of(trainer: Trainer) -> list[Any]:
    """Return the samplers of the loaders that are trained on, whatever the shape these are given in."""
    loaders = getattr(trainer, "train_dataloader", None)
    flat = [] if loaders is None else CombinedLoader(loaders, "min_size").flattened
    return [loader.sampler for loader in flat if hasattr(loader, "sampler")]


def refuse_batches_without_pairs(losses: Iterable[str], samplers: Iterable[Any]) -> None:
    """Refuse batches in which a loss between images has nothing to compare, and would be 0 throughout.

    Args:
        losses: names of the losses that compare images.
        samplers: of the training batches; one that does not say what its batches hold passes.

    Raises:
        UserError: a batch holds images of one label, or one image of each.
    """
    named = ", ".join(losses)
    for sampler in samplers:
        sizes = {name: getattr(sampler, name, None) for name in _SIZES}
        few = [name for name, size in sizes.items() if isinstance(size, int) and size < 2]
        if named and few:
            raise UserError(
                f"{named}: a batch has no two images of one label to compare, or no other label; the loss would be 0.",
                looked_for="two labels or more in a batch (people or clusters), and two images or more of each",
                found=f"data.sampler.{few[0]} {sizes[few[0]]}",
                remedy=f"give --data.sampler.{few[0]} 2 or more, or leave these losses out of model.losses",
            )
