"""The rows of the tables: what a network starts from before it is fine-tuned on the real images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.evidence.plan import LARGE, SMALL
from experiments.evidence.settings import Settings
from experiments.evidence.stages import Share, Stages, Variant

IMAGENET = "efficientnet-lite0"


@dataclass(frozen=True)
class Work:
    """Tools that a row is made with.

    Args:
        stages: asks for steps.
        settings: what was chosen.
        world: the rendered corpus that the text-to-image model learnt from; None where it is not at hand.
        images: generated images of each identity.
    """

    stages: Stages
    settings: Settings
    world: Path | None
    images: int


Data = Callable[[Work, Share], Path]


@dataclass(frozen=True)
class Row:
    """A way of starting.

    Args:
        label: in tables.
        start: returns what ``init_from`` takes, for a share of the training images and a seed.
        data: makes, once for all seeds, the generated images that it is pre-trained on; None where there are none.
        variant: how those were generated.
        backbone: the network; rows compare within one.
        scratch: whether it starts from random weights, and so has the long schedule.
        init: name of the weights that its pre-training starts from; None for random ones.
    """

    label: str
    start: Callable[[Work, Share, int], str | None]
    data: Data | None = None
    variant: Variant = "full"
    backbone: str = SMALL
    scratch: bool = False
    init: str | None = None

    @property
    def name(self) -> str:
        """The label as a folder's name."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.label).lower()

    def tuned(self, work: Work, share: Share, seed: int, *, test: bool) -> Path:
        """Start, fine-tune, and search query and gallery where ``test`` says so; returns the run's step."""
        chosen, large = work.settings, self.backbone == LARGE
        if self.scratch:  # the rate is that of stages/transfer
            iterations = chosen.large_scratch_iterations if large else chosen.scratch_iterations
            rate = Settings.tune_rate
        else:
            iterations = chosen.large_tune_iterations if large else chosen.tune_iterations
            rate = chosen.large_tune_rate if large else chosen.tune_rate
        init_from = self.start(work, share, seed)
        return work.stages.tuned(
            self.name, share, iterations, rate, seed, backbone=self.backbone, init_from=init_from, test=test
        )


@functools.cache  # one function for all rows of a variant
def _filtered(variant: Variant) -> Data:
    return lambda work, share: work.stages.diff_person(share, variant, work.settings, work.images)


def _generated(
    label: str, data: Data | None = None, variant: Variant = "full", *, backbone: str = SMALL, init: str | None = None
) -> Row:
    """A row that is pre-trained on generated images, mixed with the subset's as the settings say."""

    def start(work: Work, share: Share, seed: int) -> str:
        return pretrained_on(make(work, share), work, share, seed, row.name, backbone=backbone, init=init)

    make = data or _filtered(variant)
    row = Row(label, start, make, variant, backbone, init=init)
    return row


def pretrained_on(
    made: Path, work: Work, share: Share, seed: int, name: str, *, backbone: str = SMALL, init: str | None = None
) -> str:
    """Pre-train on generated images, mixed with the subset's where the settings say so; returns the backbone."""
    chosen = work.settings
    iterations = chosen.large_pretrain_iterations if backbone == LARGE else chosen.pretrain_iterations
    mixed = chosen.generated_share is not None
    sources = [str(made), *([work.stages.described_subset(share)] if mixed else [])]
    trained = work.stages.pretrained(
        name, sources, iterations, seed, backbone=backbone, init_from=init, generated_share=chosen.generated_share
    )
    return str(trained)


def _real_only(work: Work, share: Share, seed: int) -> str:
    sources = [work.stages.described_subset(share)]
    return str(work.stages.pretrained("real_only", sources, work.settings.pretrain_iterations, seed))


def _world(work: Work, share: Share, seed: int) -> str:
    return str(work.stages.pretrained("world", [str(work.world)], work.settings.pretrain_iterations, seed))


def _everything(work: Work, share: Share) -> Path:
    return work.stages.unfiltered(share, work.settings)


def _self_supervised(work: Work, share: Share, seed: int) -> str:
    source = _everything(work, share)
    return str(work.stages.self_supervised(source, work.settings.pretrain_iterations, seed))


FULL = "Diff-Person"
WORLD = "world corpus, its labels"
ROWS = {
    row.label: row
    for row in (
        Row("scratch", lambda *_: None, scratch=True),
        Row("real images, as long", _real_only),
        Row(WORLD, _world),
        _generated("frozen base, consensus prompt", variant="frozen base"),
        _generated("without LPE", variant="without LPE"),
        _generated("without DI", variant="without DI"),
        _generated("unfiltered", _everything),
        _generated("top-scored", lambda work, share: work.stages.unfiltered(share, work.settings, "best")),
        _generated("random", lambda work, share: work.stages.unfiltered(share, work.settings, "random")),
        _generated("bottom-scored", lambda work, share: work.stages.unfiltered(share, work.settings, "worst")),
        Row("self-supervised, no labels", _self_supervised, _everything),
        _generated(FULL),
        Row("large: scratch", lambda *_: None, backbone=LARGE, scratch=True),
        Row("large: ImageNet", lambda *_: IMAGENET, backbone=LARGE),
        _generated("large: Diff-Person", backbone=LARGE),
        _generated("large: ImageNet, then Diff-Person", backbone=LARGE, init=IMAGENET),
    )
}

FEW = 0.3
#: rows by share of the training images
TABLES: dict[Share, tuple[str, ...]] = {
    FEW: tuple(ROWS),
    0.1: ("scratch", "real images, as long", FULL, "large: ImageNet", "large: ImageNet, then Diff-Person"),
    None: ("scratch", "real images, as long", FULL, "large: ImageNet", "large: ImageNet, then Diff-Person"),
}
