"""Set the sizes of the comparison, about which no choice is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SMALL, LARGE = "test_resnet", "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Args:
        dataset: whose training images the method starts from, and whose query and gallery are searched.
        vocabulary: words for the attributes of generated images.
        subset_seed: of the few-shot subsets; one for all rows, since what is generated from a subset is shared.
        images_per_identity: generated images.
        halved: images of each identity in the equal-count subsets.
        floor: images that an identity keeps whatever they score.
        personalize_steps: batches of personalization.
        personalize_batch: images in such a batch.
        prior_images_per_identity: images that the base model shall still draw afterwards.
        scorer_iterations: batches of the scorer's training.
        identities_per_batch: P of the Re-ID batches.
        images_per_batch_identity: K of the Re-ID batches.
        epoch_batches: batches of an epoch of Re-ID training, at most. Schedules and warm-up go by epochs: they are the
            same for few images and for many.
        seeds: of the rows.
        choice_seeds: of the runs that settings are chosen by.
        choice_images: generated images of each identity while settings are chosen; ``floor`` of them stay whatever the
            threshold, so its choice is between nearer things than the rows' own.
        validations: how often a curve is measured in a run, at most.
        more: further words for the commands of a stage, by its name.
    """

    dataset: str = "miniperson"
    vocabulary: str = "rendered"
    subset_seed: int = 0
    images_per_identity: int = 12
    halved: int = 6
    floor: int = 2
    personalize_steps: int = 600
    personalize_batch: int = 16
    prior_images_per_identity: int = 2
    scorer_iterations: int = 600
    identities_per_batch: int = 16
    images_per_batch_identity: int = 4
    epoch_batches: int = 10
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choice_seeds: tuple[int, ...] = (10, 11)
    choice_images: int = 4
    validations: int = 10
    more: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Any]:
        """All of them as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def epochs_for(iterations: int, batches: int) -> int:
    """Return how many epochs come nearest to so many batches.

    Args:
        iterations: batches wanted, at least 1.
        batches: of an epoch, at least 1.
    """
    return max(1, round(iterations / batches))


def validation_interval(epochs: int, most: int) -> int:
    """Return after how many epochs each to validate, so that the last epoch is among them.

    Args:
        epochs: of the run.
        most: validations wanted, at most about twice as many are made.
    """
    wanted = max(1, epochs // most)
    return next(interval for interval in range(wanted, 0, -1) if epochs % interval == 0)
