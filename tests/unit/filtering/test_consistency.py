"""Consistency against a loop over images, and what must not change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from diffreid_lightning.filtering import consistency as module
from diffreid_lightning.filtering.consistency import TEMPERATURES, consistency, mean_pair_distances

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def made(seed: int, people: int = 7, count: int = 90, noise: float = 1.0) -> tuple[Floats, Labels]:
    """Noisy images of people: some left out, a label with one image, and a number that no image has."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, people, count)
    labels[labels == 3] = 4
    features = rng.normal(size=(people + 1, 12))[labels] + noise * rng.normal(size=(count, 12))
    labels[0] = people
    return features * rng.uniform(0.1, 9, (count, 1)), labels


def by_hand(features: Floats, labels: Labels) -> Floats:
    """Cosines to the mean direction of each label's other images, (N, C); NaN for labels without any."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = np.full((len(labels), labels.max() + 1), np.nan)
    for row in range(len(labels)):
        for label in range(labels.max() + 1):
            others = [unit[other] for other in range(len(labels)) if labels[other] == label and other != row]
            if others:
                mean = np.mean(others, axis=0)
                cosines[row, label] = unit[row] @ mean / np.linalg.norm(mean)
    return cosines


def likelihood(cosines: Floats, labels: Labels, temperature: float) -> float:
    powers = np.exp(cosines / temperature)
    return float(np.mean([np.log(powers[row, label] / np.nansum(powers[row])) for row, label in enumerate(labels)]))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_loop_over_images_finds(seed: int) -> None:
    features, labels = made(seed)
    found = consistency(features, labels)
    cosines = by_hand(features, labels)
    judged = [row for row, label in enumerate(labels) if label >= 0 and (labels == label).sum() > 1]
    assert np.flatnonzero(~np.isnan(found.scores)).tolist() == judged == np.flatnonzero(found.nearest >= 0).tolist()
    for row in judged:
        powers = np.exp(cosines[row] / found.temperature)
        assert found.scores[row] == pytest.approx(powers[labels[row]] / np.nansum(powers), abs=1e-4)
        assert found.nearest[row] == np.nanargmax(cosines[row])
    at, below, above = (likelihood(cosines[judged], labels[judged], f * found.temperature) for f in (1, 0.95, 1.05))
    assert at > max(below, above), "the temperature fits best"


@pytest.mark.parametrize("seed", range(3))
def test_neither_order_nor_numbers_nor_lengths_nor_rows_left_out_matter(seed: int) -> None:
    features, labels = made(seed)
    found = consistency(features, labels)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(len(labels)), rng.permutation(20)
    renamed = np.where(labels < 0, -1, names[labels])
    other = consistency(features[order] * rng.uniform(1, 5, (len(labels), 1)), renamed[order])
    assert other.scores == pytest.approx(found.scores[order], abs=1e-5, nan_ok=True)
    assert other.nearest.tolist() == [-1 if label < 0 else names[label] for label in found.nearest[order]]
    changed = np.where(labels[:, None] < 0, np.nan, features)
    np.testing.assert_array_equal(consistency(changed, labels).scores, found.scores)


def test_an_image_is_no_witness_for_itself() -> None:
    """Two of a label agree, the third is orthogonal to everything: alone in its mean, it would agree with itself."""
    features = np.eye(6)[[0, 0, 1, 2, 2, 3, 3]]
    found = consistency(features, np.array([0, 0, 0, 1, 1, 2, 2]))
    assert found.nearest.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert found.scores[2] == pytest.approx(1 / 3), "it is as near to every label"
    pair = consistency(np.eye(4), np.array([0, 0, 1, 1]))
    assert (pair.scores == pytest.approx(0.5)) and (pair.nearest != [0, 0, 1, 1]).all()


def test_images_that_nothing_can_agree_with_have_no_score() -> None:
    features = np.random.default_rng(0).normal(size=(4, 5))
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0], [-1, -1, -1, -1]):
        found = consistency(features, np.array(labels))
        assert np.isnan(found.scores).all() and (found.nearest == -1).all()
    found = consistency(features, np.array([0, 0, 1, -1]))
    assert np.isnan(found.scores).tolist() == [False, False, True, True], "an only image still is a rival"
    assert len(consistency(np.zeros((0, 5)), np.zeros(0, np.int64)).scores) == 0
    features[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        consistency(features, np.array([0, 0, 1, 1]))


def test_labels_that_agree_get_one_and_labels_at_random_get_chance() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 8
    apart = consistency(np.eye(8)[labels] + 0.05 * rng.normal(size=(400, 8)), labels)
    assert apart.scores.min() > 0.99 and apart.temperature == pytest.approx(TEMPERATURES[0], rel=1)
    mixed = consistency(rng.normal(size=(400, 8)), labels)
    assert mixed.scores.mean() == pytest.approx(1 / 8, abs=0.03)


def test_blocks_and_a_mapped_file_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(0, count=300)
    half = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    np.save(tmp_path / "features.npy", half)
    whole = consistency(half, labels)
    monkeypatch.setattr(module, "_BLOCK", 64)
    parts = consistency(np.load(tmp_path / "features.npy", mmap_mode="r"), labels)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.scores == pytest.approx(consistency(features, labels).scores, abs=0.02, nan_ok=True)


def test_pair_distances_are_those_of_a_loop() -> None:
    features, labels = made(1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = mean_pair_distances(features, labels)
    for label in range(labels.max() + 1):
        own = unit[labels == label]
        pairs = [1 - own[i] @ own[j] for i in range(len(own)) for j in range(i)]
        assert found[label] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
