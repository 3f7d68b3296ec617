"""Error rates by threshold against all pairs, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional.verification import verification_errors


def case(seed: int, cameras: int, people: int = 7, images: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(people, (images,), generator=generator) * 3 + 1
    centers = torch.randn(3 * people + 1, 8, generator=generator)
    features = centers[pids] + torch.randn(images, 8, generator=generator)
    return features, pids, torch.randint(cameras, (images,), generator=generator)


def all_pairs(features: torch.Tensor, pids: torch.Tensor, camids: torch.Tensor) -> list[tuple[float, int, int]]:
    """Return similarity and both people of every pair that counts."""
    units = torch.nn.functional.normalize(features.double())
    one_camera = len(set(camids.tolist())) == 1
    return [
        (float(units[i] @ units[j]), int(pids[i]), int(pids[j]))
        for i in range(len(pids))
        for j in range(i)
        if one_camera or camids[i] != camids[j]
    ]


@pytest.mark.parametrize("cameras", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_all_pairs(seed: int, cameras: int) -> None:
    given = case(seed, cameras)
    errors = verification_errors(*given, resamples=1)
    pairs = all_pairs(*given)
    same = np.asarray([cosine for cosine, one, other in pairs if one == other])
    others = np.asarray([cosine for cosine, one, other in pairs if one != other])
    assert (errors.same.sum(), errors.other.sum()) == (len(same), len(others))
    assert errors.identities == len(set(given[1].tolist())) and errors.across_cameras == (cameras > 1)
    slack = 1e-6  # the function's cosines are of float32
    for threshold, fmr, fnmr in zip(errors.thresholds[::7], errors.fmr[::7], errors.fnmr[::7], strict=True):
        assert (others >= threshold + slack).mean() <= fmr <= (others >= threshold - slack).mean()
        assert (same < threshold - slack).mean() <= fnmr + 1e-12 and fnmr <= (same < threshold + slack).mean() + 1e-12


@pytest.mark.parametrize("cameras", [1, 3])
def test_resamples_weigh_pairs_by_how_often_their_people_are_drawn(cameras: int) -> None:
    features, pids, camids = case(11, cameras)
    errors = verification_errors(features, pids, camids, resamples=5, seed=3)
    known = sorted(set(pids.tolist()))
    draws = np.random.default_rng(3).multinomial(len(known), np.full(len(known), 1 / len(known)), size=5)
    place = int(np.searchsorted(errors.thresholds, 0.31234))
    threshold = errors.thresholds[place]
    pairs = all_pairs(features, pids, camids)
    for weights, fmr, fnmr in zip(draws, errors.resampled_fmr, errors.resampled_fnmr, strict=True):
        times = dict(zip(known, weights.tolist(), strict=True))
        others = [(cosine, times[one] * times[other]) for cosine, one, other in pairs if one != other]
        same = [(cosine, times[one]) for cosine, one, other in pairs if one == other]
        wrong = sum(weight for cosine, weight in others if cosine >= threshold) / sum(weight for _, weight in others)
        missed = sum(weight for cosine, weight in same if cosine < threshold) / sum(weight for _, weight in same)
        assert fmr[place] == pytest.approx(wrong) and fnmr[place] == pytest.approx(missed)


def test_thresholds_keep_the_wanted_rates() -> None:
    errors = verification_errors(*case(5, 2, people=12, images=90))
    assert errors.fmr[0] == 1 and errors.fmr[-1] == 0 and errors.fnmr[0] == 0 and errors.fnmr[-1] == 1
    for wanted in (0.3, 0.05, 0.0):
        at = errors.at_fmr(wanted)
        assert errors.fmr[at] <= wanted < errors.fmr[at - 1]
        at = errors.at_fnmr(wanted)
        assert errors.fnmr[at] <= wanted < errors.fnmr[at + 1]
    rate, resampled = errors.equal_error_rate()
    assert abs(errors.fmr[errors.at_equal_errors()] - rate) < 0.02
    low, high = np.percentile(resampled, [1, 99])
    assert low <= rate <= high and low < high


def test_people_far_apart_have_no_errors() -> None:
    pids = torch.arange(5).repeat(4)
    errors = verification_errors(torch.eye(5)[pids], pids, torch.zeros(20, dtype=torch.long))
    assert errors.equal_error_rate()[0] == 0
    assert not errors.resampled_fmr[:, errors.at_fmr(0)].any()


@pytest.mark.parametrize(
    ("pids", "camids"), [([1, 1, 2, 2], [0, 0, 1, 1]), ([1, 1, 1], [0, 1, 2]), ([1, 2, 3], [0] * 3)]
)
def test_nothing_to_compare_is_refused(pids: list[int], camids: list[int]) -> None:
    with pytest.raises(UserError, match="no pairs"):
        verification_errors(torch.rand(len(pids), 3), torch.tensor(pids), torch.tensor(camids))


def test_a_camera_for_each_image_stands_for_unknown_ones() -> None:
    features, pids = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    unknown = verification_errors(features, pids, torch.arange(6), resamples=2)
    one = verification_errors(features, pids, torch.zeros(6, dtype=torch.int64), resamples=2)
    assert not unknown.across_cameras and not one.across_cameras
    assert (unknown.same == one.same).all() and (unknown.other == one.other).all()
    assert verification_errors(features, pids, torch.tensor([0, 1, 0, 1, 0, 1]), resamples=2).across_cameras
