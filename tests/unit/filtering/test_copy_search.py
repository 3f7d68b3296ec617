"""Copies: distances against plain NumPy, mirror images, and the greedy choice of what to keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffreid_lightning.filtering import copy_search
from diffreid_lightning.filtering.copy_search import LENGTH, later_copies, mirror, nearest, precompute, thumbnails


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(count, LENGTH), dtype=np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    planes = one.reshape(3, 32, 16)
    forms = (planes, planes[:, :, ::-1])
    return min(float(np.sqrt(np.mean((f.ravel().astype(float) - other) ** 2))) / 255 for f in forms)


def test_a_thumbnail_is_an_average() -> None:
    image = torch.zeros(1, 3, 64, 32)
    image[0, 0, :2, :2] = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    thumb = thumbnails(image).view(3, 32, 16)
    assert thumb[0, 0, 0] == 128 and thumb.sum() == 128


def test_mirroring_twice_is_nothing() -> None:
    thumbs = torch.from_numpy(pictures(3, 0))
    assert torch.equal(mirror(mirror(thumbs)), thumbs) and not torch.equal(mirror(thumbs), thumbs)


@pytest.mark.parametrize("count", [1, 7, 4500])
def test_the_nearest_against_plain_numpy(count: int) -> None:
    others, thumbs = pictures(count, 1), pictures(5, 2)
    thumbs[0] = others[-1]
    thumbs[1] = mirror(torch.from_numpy(others[count // 2 : count // 2 + 1])).numpy()
    found, rows = nearest(torch.from_numpy(thumbs), precompute(torch.from_numpy(others)))
    for i in range(5):
        expected = [distance(thumbs[i], other) for other in others]
        assert rows[i] == int(np.argmin(expected))
        assert float(found[i]) == pytest.approx(min(expected), abs=1e-6)
    assert found[0] == 0 and found[1] == 0


def test_an_image_is_not_its_own_neighbor() -> None:
    others = torch.from_numpy(pictures(20, 3))
    found, rows = nearest(others, precompute(others), exclude=torch.arange(20))
    assert (rows != torch.arange(20)).all() and (found > 0).all()
    alone, _ = nearest(others[:1], precompute(others[:1]), exclude=torch.arange(1))
    assert torch.isinf(alone).all()


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (40, 1), (150, 2)])
def test_what_is_kept_against_a_plain_loop(count: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_search, "_BLOCK", 32)
    rng = np.random.default_rng(seed)
    originals = pictures(max(1, count // 4), seed)
    thumbs = originals[rng.integers(len(originals), size=count)].astype(int) + rng.integers(-9, 10, size=(count, 1))
    thumbs = thumbs.clip(0, 255).astype(np.uint8)
    kept: list[int] = []
    expected = []
    for row in range(count):
        near = next((other for other in kept if distance(thumbs[row], thumbs[other]) < 0.02), -1)
        expected.append(near)
        if near < 0:
            kept.append(row)
    assert later_copies(thumbs, 0.02).tolist() == expected


@pytest.mark.parametrize("plain", [[], [0, 254, 255]])
def test_exact_copies_are_found_at_any_threshold(plain: list[int]) -> None:
    originals = np.concatenate([pictures(20, 4), *(np.full((1, LENGTH), grey, np.uint8) for grey in plain)])
    mirrored = mirror(torch.from_numpy(originals[:20])).numpy()
    found = later_copies(np.concatenate([originals, originals, mirrored]), 1e-6)
    assert found.tolist() == [-1] * len(originals) + [*range(len(originals))] + [*range(20)]
