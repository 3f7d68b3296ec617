from __future__ import annotations

import pytest
import torch

from tools.tiny_sd.adversary import PatchAdversary, balance, discriminator_loss


def test_hinge_loss_of_a_known_case() -> None:
    real, rebuilt = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    # Images: 0 and 0.5 short of 1; reconstructions: 0 and 2 above -1.
    assert float(discriminator_loss(real, rebuilt)) == pytest.approx(0.5 * (0.25 + 1.0))
    assert float(discriminator_loss(torch.tensor([1.0]), torch.tensor([-1.0]))) == 0


def test_balance_brings_both_gradients_to_one_size() -> None:
    rebuilt = torch.rand(2, 3, 4, 4, requires_grad=True)
    error, deceit = rebuilt.abs().mean(), 7 * rebuilt.square().sum()
    weight = balance(error, deceit, rebuilt)
    ours = torch.autograd.grad(error, rebuilt, retain_graph=True)[0].norm()
    theirs = torch.autograd.grad(weight * deceit, rebuilt)[0].norm()
    assert float(theirs) == pytest.approx(float(ours), rel=1e-5)
    assert not weight.requires_grad


def test_an_adversary_that_says_nothing_is_not_amplified_without_bound() -> None:
    rebuilt = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert float(balance(rebuilt.mean(), 0 * rebuilt.sum(), rebuilt)) == 1e4


def test_frozen_scores_are_the_scores_and_teach_the_images_alone() -> None:
    torch.manual_seed(0)
    adversary = PatchAdversary(channels=4).eval()  # in training, each pass refines the spectral norms
    images = torch.rand(2, 3, 16, 8, requires_grad=True)
    scores = adversary.frozen(images)
    assert scores.shape == (2, 1, 4, 2)
    assert torch.equal(scores, adversary(images))
    scores.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in adversary.parameters())


def test_the_adversary_learns_to_tell_sharp_from_smooth() -> None:
    torch.manual_seed(0)
    adversary = PatchAdversary(channels=4)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=2e-2)
    for _ in range(60):
        sharp = (torch.rand(8, 3, 16, 8) > 0.5).float()
        loss = discriminator_loss(adversary(sharp), adversary(torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sharp = (torch.rand(32, 3, 16, 8) > 0.5).float()
    smooth = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    with torch.no_grad():
        assert adversary(sharp).mean() > adversary(smooth).mean() + 0.5
