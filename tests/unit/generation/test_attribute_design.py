"""Balance and independence of the design, over random cases."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest

from diffreid_lightning.generation import attribute_design
from diffreid_lightning.generation.attribute_design import balanced_design, deal_references, image_seed

KEYS = [("toy", "train", pid) for pid in range(40)] + [("toy", "test", 3), ("other", "train", 3)]


def counts(values: np.ndarray, size: int) -> np.ndarray:
    return np.stack([(values == value).sum(axis=1) for value in range(size)], axis=1)


@pytest.mark.parametrize("sizes", [(4,), (2, 3, 5), (4, 6, 8, 6, 4, 4)])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_identity_covers_every_attribute_as_evenly_as_its_count_allows(sizes: tuple[int, ...], seed: int) -> None:
    values = balanced_design(KEYS, 17, sizes, seed)
    assert values.shape == (len(KEYS), 17, len(sizes))
    for attribute, size in enumerate(sizes):
        assert values[:, :, attribute].min() >= 0
        for count in range(1, 18):  # any beginning of the design is balanced, too
            had = counts(values[:, :count, attribute], size)
            assert (had.sum(axis=1) == count).all()
            assert (had.max(axis=1) - had.min(axis=1) <= 1).all()


def test_an_image_follows_from_seed_identity_and_index_alone() -> None:
    sizes = (4, 6, 3)
    values = balanced_design(KEYS, 12, sizes, 5)
    assert np.array_equal(balanced_design(KEYS, 5, sizes, 5), values[:, :5])
    assert np.array_equal(balanced_design(KEYS[::-3], 12, sizes, 5), values[::-3])
    assert not np.array_equal(balanced_design(KEYS, 12, sizes, 6), values)
    # Same number, other partition or source: somebody else.
    same_pid = [place for place, key in enumerate(KEYS) if key[2] == 3]
    assert len({values[place].tobytes() for place in same_pid}) == 3


def test_pairs_of_values_are_spread_out() -> None:
    """Twelve images could show all twelve pairs of 4 views and 3 lights; shuffled decks alone show 8.6."""
    values = balanced_design([("toy", "train", pid) for pid in range(200)], 12, (4, 3), 0)
    distinct = [len({tuple(pair) for pair in person.tolist()}) for person in values]
    assert np.mean(distinct) > 10


def test_attributes_are_not_the_same_for_everybody() -> None:
    values = balanced_design([("toy", "train", pid) for pid in range(400)], 1, (4, 3), 0)
    had = counts(values[None, :, 0, 0], 4)[0]
    assert had.min() > 60  # 100 each on average


def test_real_images_are_dealt_evenly() -> None:
    for cards in (1, 3, 7):
        hand = deal_references(KEYS[0], 20, cards, 0)
        assert np.ptp(np.bincount(hand, minlength=cards)) <= 1
        assert np.array_equal(deal_references(KEYS[0], 9, cards, 0), hand[:9])


def test_seeds_differ_and_fit_a_signed_64_bit_number() -> None:
    seeds = {image_seed(key, index, seed) for key in KEYS for index in range(20) for seed in (0, 1)}
    assert len(seeds) == len(KEYS) * 20 * 2
    assert min(seeds) >= 0 and max(seeds) < 2**63
    # Written down once: a set that is continued by a later version of the package has the same noise.
    assert image_seed(("market1501", "train", 2), 3, 0) == 5709369611323965015


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [((4, 6, 8, 6, 4, 4), "a73203ffb61e6496"), ((4, 5, 6, 3), "0b24561f2fcd7826")],
    ids=["default", "rendered"],
)
def test_what_is_drawn_does_not_depend_on_how_many_are_drawn_together(
    sizes: tuple[int, ...], drawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = balanced_design(KEYS, 6, sizes, 3)
    monkeypatch.setattr(attribute_design, "_MEMORY", 1)
    assert np.array_equal(balanced_design(KEYS, 6, sizes, 3), values)
    # Written down once: a set that is continued by a later version of the package has the same design.
    assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()[:16] == drawn


def test_a_large_vocabulary_takes_bounded_memory() -> None:
    keys = [("toy", "train", pid) for pid in range(400)]
    tracemalloc.start()
    values = balanced_design(keys, 1, [60] * 6, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.shape == (400, 1, 6)
    assert peak < 1.5 * attribute_design._MEMORY, "all at once would be three times as much"
