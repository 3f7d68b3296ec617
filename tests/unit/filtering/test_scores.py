"""Scores against NumPy, and the temperature against cases whose temperature is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering import scores
from diffreid_lightning.filtering.calibration import FoldHeads, FoldNetworks, Uncalibrated, calibrate
from diffreid_lightning.filtering.scores import (
    TEMPERATURES,
    assign_folds,
    confidence,
    fit_temperature,
    identity_centroids,
    margin,
    negative_log_likelihood,
    similarity,
)


def known_case(temperature: float, count: int = 40000, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn from their softmax at a temperature: the maximum likelihood estimate is near it."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, classes)) * 3
    gumbel = rng.gumbel(size=logits.shape)  # the argmax of z / T + Gumbel noise is a draw from softmax(z / T)
    return torch.from_numpy(logits), torch.from_numpy((logits / temperature + gumbel).argmax(axis=1))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_at_is_found(temperature: float) -> None:
    logits, labels = known_case(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    best = negative_log_likelihood(logits, labels, found)
    for other in np.geomspace(*TEMPERATURES, 60):
        assert best <= negative_log_likelihood(logits, labels, float(other)) + 1e-9


@pytest.mark.parametrize("rows", [7, 300, 1000])
def test_blocks_of_rows_give_what_the_whole_matrix_gives(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = known_case(1.7, 300)
    best = fit_temperature(logits, labels)
    expected = best, negative_log_likelihood(logits, labels, best)
    sizes: list[int] = []
    double = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda tensor: sizes.append(len(tensor)) or double(tensor))
    monkeypatch.setattr(scores, "_ROWS", rows)
    found = fit_temperature(logits, labels)
    assert (found, negative_log_likelihood(logits, labels, found)) == pytest.approx(expected, abs=1e-9)
    assert max(sizes) == min(rows, 300)
    assert expected[1] == pytest.approx(float(F.cross_entropy(logits / best, labels)), abs=1e-9)


def test_temperatures_stay_in_their_range() -> None:
    logits = torch.eye(4) * 30
    assert fit_temperature(logits, torch.arange(4)) == TEMPERATURES[0], "all recognized"
    assert fit_temperature(logits, torch.tensor([1, 2, 3, 0])) == TEMPERATURES[1], "none recognized"


@pytest.mark.parametrize("logits", [torch.empty(0, 3), torch.tensor([[1.0, float("nan")]])])
def test_a_temperature_of_nothing_is_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="finite logits"):
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.int64))


@pytest.mark.parametrize("seed", range(3))
def test_scores_against_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, centroids, logits = rng.normal(size=(9, 5)), rng.normal(size=(4, 5)), rng.normal(size=(9, 4))
    own = rng.integers(4, size=9)
    temperatures = rng.uniform(0.5, 2, size=9)
    f, c, z, y, t = map(torch.from_numpy, (features, centroids, logits, own, temperatures))

    scaled = np.exp(logits / temperatures[:, None])
    expected = (scaled / scaled.sum(axis=1, keepdims=True))[np.arange(9), own]
    np.testing.assert_allclose(confidence(z, y, t), expected)
    np.testing.assert_allclose(confidence(z, y), confidence(z, y, torch.ones(9)))

    cosines = features @ centroids.T
    cosines /= np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(centroids, axis=1)
    np.testing.assert_allclose(similarity(f, c, y), cosines[np.arange(9), own])
    best_other = [max(cosines[i, k] for k in range(4) if k != own[i]) for i in range(9)]
    np.testing.assert_allclose(margin(f, c, y), cosines[np.arange(9), own] - best_other)


def test_a_margin_needs_somebody_else() -> None:
    with pytest.raises(ValueError, match="two identities"):
        margin(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))


def test_centroids_are_mean_directions() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, -2.0]])
    found = identity_centroids(features, torch.tensor([0, 0, 2]), 3)
    half = 2**-0.5
    torch.testing.assert_close(found, torch.tensor([[half, half], [0.0, 0.0], [0.0, -1.0]]))


@pytest.mark.parametrize("seed", range(5))
def test_every_image_but_an_only_one_is_held_out_once_and_folds_are_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 9, size=30)))
    k = int(rng.integers(2, 5))
    folds = assign_folds(labels, k, seed)
    assert (folds == assign_folds(labels, k, seed)).all()
    for identity in range(30):
        own = folds[labels == identity]
        if len(own) == 1:
            assert own[0] == -1
            continue
        per_fold = np.bincount(own, minlength=k)
        assert per_fold.sum() == len(own) and per_fold.max() - per_fold.min() <= 1
        assert per_fold.max() < len(own), "something is left to learn the identity from"
    whole = np.bincount(folds[folds >= 0], minlength=k)
    assert whole.max() - whole.min() <= 30 / 2, "the remainders of the identities do not pile up in one fold"


@pytest.mark.parametrize("method", [FoldNetworks, FoldHeads])
def test_one_fold_is_refused(method: type[FoldNetworks] | type[FoldHeads]) -> None:
    with pytest.raises(UserError, match="folds must be at least 2"):
        method(folds=1)


def test_calibration_states_why_a_temperature_is_one() -> None:
    logits, labels = known_case(2.0, 4000)
    folds = torch.zeros(len(labels), dtype=torch.int64)
    folds[labels == 5] = -1
    fitted = calibrate(logits, labels, folds, 6)
    assert fitted.temperature == pytest.approx(2.0, rel=0.1)
    assert fitted.temperatures.tolist() == [pytest.approx(fitted.temperature)] * 5 + [1.0]
    assert fitted.single.tolist() == [5] and fitted.reason is None
    assert fitted.images == int((labels != 5).sum())
    nobody = calibrate(logits, labels, torch.full_like(folds, -1), 6)
    assert nobody.temperature == 1.0 and nobody.reason == "every identity has one image"
    assert nobody.temperatures.tolist() == [1.0] * 6
    assert calibrate(None, labels, folds, 6).reason == "calibration is switched off"


def test_heads_are_fitted_without_what_they_judge() -> None:
    """Embeddings that say nothing of the label: only a head that has seen an image can name it."""
    rng = torch.Generator().manual_seed(0)
    embeddings = torch.randn(60, 200, generator=rng)
    labels = torch.arange(60) % 3
    method = FoldHeads(folds=5)
    folds = torch.from_numpy(assign_folds(labels.numpy(), method.folds, method.seed))
    held_out = method.held_out_logits(embeddings, labels, folds, torch.empty(0, 3))
    assert held_out is not None
    seen = embeddings @ method.head(embeddings, labels, torch.zeros(3, 200)).T
    assert (seen.argmax(1) == labels).all()
    assert (held_out.argmax(1) == labels).float().mean() < 0.6
    assert calibrate(held_out, labels, folds, 3).temperature > 2


def test_what_each_calibration_costs() -> None:
    assert FoldNetworks(4).networks == 4
    assert FoldHeads().networks == 0 and Uncalibrated().networks == 0
    assert Uncalibrated().held_out_logits(torch.empty(0, 2), torch.empty(0), torch.empty(0), torch.empty(0, 2)) is None
