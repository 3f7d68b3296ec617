"""P×K sampling by its contract, on random label sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffreid_lightning.datasets.samplers import PKSampler, draw_pk_batches
from diffreid_lightning.errors import UserError


def random_labels(rng: np.random.Generator) -> np.ndarray:
    """Between 5 and 40 identities of 1 to 30 images, shuffled, so that some have fewer than K and some only one."""
    counts = rng.integers(1, 30, size=rng.integers(5, 40))
    counts[0] = 1
    labels = np.repeat(rng.permutation(len(counts)), counts)
    return rng.permutation(labels)


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    fake: Any = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank, get_world_size=lambda: world
    )
    monkeypatch.setattr("diffreid_lightning.datasets.samplers.torch.distributed", fake)


def draw_by_all(monkeypatch: pytest.MonkeyPatch, processes: int, make: Callable[[], PKSampler]) -> np.ndarray:
    """The rows that several processes draw together, (batches, P * K) in the order of their common epoch."""
    shares = []
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        sampler = make()
        draws = list(sampler)
        assert len(draws) == len(sampler)
        shares.append(np.asarray(draws)[:, 0].reshape(-1, sampler.batch_size))
    return np.stack(shares, axis=1).reshape(-1, shares[0].shape[1])


def draw_epoch(
    labels: np.ndarray,
    p: int,
    k: int,
    seed: int = 0,
    *,
    generated: np.ndarray | None = None,
    cameras: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """The rows of one process, (batches, P * K); from different cameras if these are given."""
    sampler = PKSampler(labels.tolist(), p, k, seed=seed, across_cameras=cameras is not None, **options)
    sampler.generated, sampler.cameras = generated, cameras
    return np.asarray([draw.row for draw in sampler]).reshape(-1, p * k)


@pytest.mark.parametrize("seed", range(20))
def test_every_identity_is_visited_its_rounds_and_never_twice_in_a_batch(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = random_labels(rng)
    identities = len(np.unique(labels))
    p, k, processes = int(rng.integers(1, identities + 1)), int(rng.integers(1, 6)), int(rng.integers(1, 4))
    batches = draw_by_all(monkeypatch, processes, lambda: PKSampler(labels.tolist(), p, k, seed=seed))

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
    labels = np.repeat(np.arange(6), 8)
    batches = draw_epoch(labels, 3, 4, seed)  # two rounds of four: each of the eight images exactly once
    assert sorted(batches.ravel().tolist()) == list(range(48))


def test_single_image_identities_survive() -> None:
    batches = draw_epoch(np.arange(10), 5, 4)
    assert batches.shape == (2, 20)
    assert Counter(batches.ravel().tolist()) == dict.fromkeys(range(10), 4)


@pytest.mark.parametrize(("p", "k"), [(11, 2), (0, 4), (4, 0)])
def test_impossible_batches_are_refused(p: int, k: int) -> None:
    with pytest.raises(UserError):
        PKSampler(np.repeat(np.arange(10), 3).tolist(), p, k)


def test_processes_share_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = random_labels(np.random.default_rng(3))

    def make() -> PKSampler:
        sampler = PKSampler(labels.tolist(), 4, 2, seed=7)
        sampler.set_epoch(2)
        return sampler

    together = draw_by_all(monkeypatch, 3, make)
    whole = draw_pk_batches(labels, 4, 2, len(together), np.random.default_rng([7, 2, 0]))
    np.testing.assert_array_equal(together, whole)


@pytest.mark.parametrize("share", [None, 0.5])
def test_an_epoch_has_as_many_batches_as_are_given(monkeypatch: pytest.MonkeyPatch, share: float | None) -> None:
    labels = np.repeat(np.arange(10), 8).tolist()
    for world, rank in ((1, 0), (3, 1)):
        as_process(monkeypatch, rank, world)
        sampler = PKSampler(labels, 5, 4, seed=1, generated_share=share, batches=7)
        sampler.generated = np.arange(80) % 8 < 4
        assert len(sampler) == 7 * sampler.batch_size == len(list(sampler))
    with pytest.raises(UserError, match="batches"):
        PKSampler(labels, 5, 4, batches=0)
    with pytest.raises(UserError, match="11 different identities"):
        PKSampler(labels, 11, 4, batches=7)


@pytest.mark.parametrize("share", [None, 0.5])
def test_identities_may_be_drawn_as_often_as_they_have_images(share: float | None) -> None:
    counts = np.array([2, 4, 8, 16, 32, 64])
    labels = np.repeat(np.arange(6), counts)
    generated = np.arange(len(labels)) % 2 == 0
    batches = draw_epoch(labels, 1, 2, batches=4000, generated=generated, generated_share=share, by_images=True)
    shares = np.bincount(labels[batches[:, 0]], minlength=6) / 4000
    assert shares == pytest.approx(counts / counts.sum(), abs=0.03)
    batches = draw_epoch(labels, 5, 2, batches=50, generated=generated, generated_share=share, by_images=True)
    assert all(len(set(labels[batch])) == 5 for batch in batches), "no identity stands twice in a batch"


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_companions_may_come_from_other_cameras(seed: int, share: float | None) -> None:
    rng = np.random.default_rng(seed)
    labels, cameras = np.repeat(np.arange(8), 24), np.tile(np.repeat(np.arange(6), 4), 8)
    generated = np.tile([True, False], 96)
    order = rng.permutation(len(labels))
    labels, cameras, generated = labels[order], cameras[order], generated[order]
    for images in (2, 3, 4):  # of one kind with a share: two of four
        batches = draw_epoch(labels, 4, images, seed, generated=generated, generated_share=share, cameras=cameras)
        visits = batches.reshape(-1, images)
        if share is None:
            assert all(len(set(cameras[visit])) == images for visit in visits[: len(visits) // 2])
            assert sorted(batches.ravel()) == sorted(np.resize(np.arange(192), batches.size)) or images == 3
        else:
            kinds = [visit[generated[visit] == kind] for visit in visits for kind in (True, False)]
            assert np.mean([len(set(cameras[kind])) == len(kind) for kind in kinds]) > 0.95
    any_camera = draw_epoch(labels, 4, 4, seed).reshape(-1, 4)
    assert np.mean([len(set(cameras[visit])) == 4 for visit in any_camera]) < 0.6, "else nothing was tested"
    rows = draw_epoch(labels, 4, 4, seed, cameras=cameras).reshape(-1, 4)
    assert np.mean([len(set(cameras[visit])) == 4 for visit in rows]) > 0.95


def test_epochs_differ_and_repeat_from_the_seed() -> None:
    labels = random_labels(np.random.default_rng(1)).tolist()
    first, second = PKSampler(labels, 4, 2, seed=1), PKSampler(labels, 4, 2, seed=1)
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert len({draw.seed for draw in first}) == len(first), "two images share an augmentation seed"


def mixed_rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Identities with real images, generated ones, or both."""
    labels = random_labels(rng)
    generated = rng.random(len(labels)) < 0.5
    kind = rng.integers(4, size=labels.max() + 1)[labels]  # 0: only real, 1: only generated, else as drawn
    return labels, (generated & (kind > 0)) | (kind == 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_batch_has_its_share_of_generated_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, generated = mixed_rows(rng)
    identities = len(np.unique(labels))
    p, k, share = int(rng.integers(1, identities + 1)), int(rng.integers(1, 6)), float(rng.random())
    batches = draw_epoch(labels, p, k, seed, generated=generated, generated_share=share)
    real_only = {i for i in range(identities) if not generated[labels == i].any()}
    made_only = {i for i in range(identities) if generated[labels == i].all()}
    wanted = np.diff(np.rint(np.arange(len(batches) + 1) * share * p * k))
    for batch, want in zip(batches, wanted, strict=True):
        groups = labels[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == p
        made = generated[batch].reshape(p, k).sum(axis=1)
        people = groups[:, 0].tolist()
        assert all(count == 0 for person, count in zip(people, made, strict=True) if person in real_only)
        assert all(count == k for person, count in zip(people, made, strict=True) if person in made_only)
        least = k * sum(person in made_only for person in people)
        most = k * sum(person not in real_only for person in people)
        assert made.sum() == np.clip(want, least, most)
        free = [count for person, count in zip(people, made, strict=True) if person not in real_only | made_only]
        assert not free or max(free) - min(free) <= 1, "spread evenly"


def test_decks_of_a_mix_are_dealt_without_repeats() -> None:
    labels = np.repeat(np.arange(6), 8)
    generated = np.tile([True, False], 24)
    batches = draw_epoch(labels, 3, 4, generated=generated, generated_share=0.5)
    assert sorted(batches.ravel().tolist()) == list(range(48))


def test_processes_share_one_mixed_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, generated = mixed_rows(np.random.default_rng(3))

    def make(batches: int | None = None) -> PKSampler:
        sampler = PKSampler(labels.tolist(), 4, 2, seed=7, generated_share=0.4, batches=batches)
        sampler.generated = generated
        return sampler

    together = draw_by_all(monkeypatch, 2, make)
    whole = draw_by_all(monkeypatch, 1, lambda: make(len(together)))
    np.testing.assert_array_equal(together, whole)


@pytest.mark.parametrize(("made", "share", "missing"), [(False, 0.5, "no generated"), (True, 0.5, "no real")])
def test_a_share_of_images_that_are_not_there_is_refused(made: bool, share: float, missing: str) -> None:
    labels = np.repeat(np.arange(6), 4)
    with pytest.raises(UserError, match=missing):
        draw_epoch(labels, 2, 2, generated=np.full(24, made), generated_share=share)
    with pytest.raises(UserError, match="generated_share must be at least 0 and at most 1"):
        PKSampler(labels.tolist(), 2, 2, generated_share=1.5)
