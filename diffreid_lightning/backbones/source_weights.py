"""Hold weights as their source gives them, before they are compared with a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from diffreid_lightning.backbones.timm_folder import TimmConfig, WeightTraits


@dataclass(frozen=True)
class Checkpoint:
    """Weights before they are compared with a backbone.

    Args:
        source: where they come from, in words.
        tensors: the weights by name.
        traits: what they expect of the network around them.
        config: the timm configuration they come with, None for a bare file.
        gem_exponent: (1,) exponent of the pooling they were trained with.
        neck: state of the batch-norm neck they were trained with, empty where there is none.
        dropped_head: names of tensors already left out of ``tensors``: a classifier, a second network beside the first.
        image_size: (height, width) in pixels they were trained at, where no configuration says it.
    """

    source: str
    tensors: Mapping[str, Tensor]
    traits: WeightTraits = field(default_factory=WeightTraits)
    config: TimmConfig | None = None
    gem_exponent: Tensor | None = None
    neck: Mapping[str, Tensor] = field(default_factory=dict)
    dropped_head: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
