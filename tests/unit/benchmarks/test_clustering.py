"""The clustering benchmark at a tiny size."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import clustering
from benchmarks.random_features import DIMENSION, make_training_images
from diffreid_lightning.metrics.functional.jaccard import jaccard_distances


@pytest.mark.parametrize("name", clustering.ROWS)
def test_a_few_images_are_measured(name: str) -> None:
    found = clustering.measure(name, images=400, device="cpu")
    assert 5 < found["clusters"] < 40
    assert found["seconds"] > 0
    assert ("same" in found) == (name == "dense")
    assert found.get("same", True)
    cells = clustering.line(name, 400, found).split(" | ")
    assert len(cells) == 7
    assert cells[1] == "400"


def test_labels_that_differ_are_marked() -> None:
    found = {"seconds": 1.0, "added": None, "added_on_device": None, "clusters": 1, "outliers": 0, "same": False}
    assert "**differ**" in clustering.line("dense", 1000, found)
    assert "| 0.50 + 0.25 |" in clustering.line("dense", 1000, {**found, "added": 0.5, "added_on_device": 0.25})


def test_the_dense_way_gives_the_sparse_distances() -> None:
    features = make_training_images(300, 10, 4).features
    dense = clustering.dense_jaccard(features.numpy())
    found = jaccard_distances(features, 0.9)
    row = np.repeat(np.arange(300), np.diff(found.indptr))
    np.testing.assert_allclose(found.data, dense[row, found.indices], atol=1e-5)
    assert found.nnz == pytest.approx((dense < 0.9).sum(), abs=3)


def test_training_images_are_drawn_as_asked() -> None:
    images = make_training_images(500, 7, 3)
    assert images.features.shape == (500, DIMENSION)
    np.testing.assert_allclose(images.features.norm(dim=1), 1, atol=1e-5)
    assert set(images.pids.tolist()) == set(range(1, 8))
    assert set(images.camids.tolist()) == {0, 1, 2}
