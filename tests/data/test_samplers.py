"""P×K sampling by its contract, on random label sets."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffreid_lightning.data.samplers import PKSampler, draw_pk_epoch
from diffreid_lightning.errors import UserError


def random_labels(rng: np.random.Generator) -> np.ndarray:
    """Between 5 and 40 identities of 1 to 30 images, shuffled, so that some have fewer than K and some only one."""
    counts = rng.integers(1, 30, size=rng.integers(5, 40))
    counts[0] = 1
    labels = np.repeat(rng.permutation(len(counts)), counts)
    return rng.permutation(labels)


@pytest.mark.parametrize("seed", range(20))
def test_every_identity_is_visited_its_rounds_and_never_twice_in_a_batch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = random_labels(rng)
    identities = len(np.unique(labels))
    p, k, processes = int(rng.integers(1, identities + 1)), int(rng.integers(1, 6)), int(rng.integers(1, 4))
    batches = draw_pk_epoch(labels, p, k, rng, multiple_of=processes)

    assert len(batches) % processes == 0
    rounds = max(1, round(len(labels) / identities / k))
    visits: Counter[int] = Counter()
    for batch in batches:
        groups = labels[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all(), "the K images of a group show one identity"
        assert len(set(groups[:, 0])) == p, "an identity stands twice in a batch"
        visits.update(groups[:, 0].tolist())
    assert len(visits) == identities, "an identity was lost"
    extra = -(-(len(batches) * p) // identities)  # rounds, and what filling up to whole batches and processes adds
    assert min(visits.values()) >= rounds
    assert max(visits.values()) <= extra


@pytest.mark.parametrize("seed", range(5))
def test_images_are_dealt_without_repeats_until_the_deck_is_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), 8)
    batches = draw_pk_epoch(labels, 3, 4, rng)  # two rounds of four: each of the eight images exactly once
    assert sorted(batches.ravel().tolist()) == list(range(48))


def test_single_image_identities_survive() -> None:
    batches = draw_pk_epoch(np.arange(10), 5, 4, np.random.default_rng(0))
    assert batches.shape == (2, 20)
    assert Counter(batches.ravel().tolist()) == dict.fromkeys(range(10), 4)


@pytest.mark.parametrize(("p", "k"), [(11, 2), (0, 4), (4, 0)])
def test_impossible_batches_are_refused(p: int, k: int) -> None:
    with pytest.raises(UserError):
        draw_pk_epoch(np.repeat(np.arange(10), 3), p, k, np.random.default_rng(0))


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    fake: Any = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank, get_world_size=lambda: world
    )
    monkeypatch.setattr("diffreid_lightning.data.samplers.torch.distributed", fake)


def test_processes_share_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = random_labels(np.random.default_rng(3)).tolist()
    shares = []
    for rank in range(3):
        as_process(monkeypatch, rank, 3)
        sampler = PKSampler(labels, 4, 2, seed=7)
        sampler.set_epoch(2)
        draws = list(sampler)
        assert len(draws) == len(sampler)
        shares.append(np.asarray(draws).reshape(-1, 8, 2))
    together = np.stack(shares, axis=1).reshape(-1, 8, 2)[..., 0]
    whole = draw_pk_epoch(np.asarray(labels), 4, 2, np.random.default_rng([7, 2, 0]), multiple_of=3)
    np.testing.assert_array_equal(together, whole)


def test_epochs_differ_and_repeat_from_the_seed() -> None:
    labels = random_labels(np.random.default_rng(1)).tolist()
    first, second = PKSampler(labels, 4, 2, seed=1), PKSampler(labels, 4, 2, seed=1)
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert len({draw.seed for draw in first}) == len(first), "two images share an augmentation seed"
