"""Soft losses, moving averages and domain norms against their definitions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from diffreid_lightning.training.moving_average import update_average, warmed_decay
from diffreid_lightning.unsupervised.domain_norms import DomainNorms
from diffreid_lightning.unsupervised.soft_losses import soft_cross_entropy, soft_triplet


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_soft_cross_entropy_by_loops() -> None:
    student, teacher = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    expected = np.mean(
        [-softmax(t) @ np.log(softmax(s)) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    )
    assert float(soft_cross_entropy(student, teacher)) == pytest.approx(expected, rel=1e-5)
    hard = 50 * nn.functional.one_hot(torch.tensor([1, 0, 3, 2, 2, 1]), 4).double()
    plain = nn.functional.cross_entropy(student, hard.argmax(1))
    assert float(soft_cross_entropy(student, hard)) == pytest.approx(float(plain), rel=1e-5)


def test_soft_triplets_by_loops() -> None:
    labels = [0, 0, 1, 1, 1, 2]  # the last has no positive
    student, teacher = torch.randn(6, 3), torch.randn(6, 5)
    own, taught = student.numpy(), teacher.numpy()
    losses = []
    for anchor in range(5):
        same = [row for row in range(6) if labels[row] == labels[anchor] and row != anchor]
        other = [row for row in range(6) if labels[row] != labels[anchor]]
        positive = max(same, key=lambda row: np.linalg.norm(own[anchor] - own[row]))
        negative = min(other, key=lambda row: np.linalg.norm(own[anchor] - own[row]))
        pair, reference = (
            softmax(np.array([np.linalg.norm(f[anchor] - f[positive]), np.linalg.norm(f[anchor] - f[negative])]))
            for f in (own, taught)
        )
        losses.append(-reference @ np.log(pair))
    assert float(soft_triplet(student, teacher, torch.tensor(labels))) == pytest.approx(np.mean(losses), rel=1e-4)


def test_soft_losses_teach_the_student_alone() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    (soft_cross_entropy(student, teacher) + soft_triplet(student, teacher, labels)).backward()
    assert teacher.grad is None
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    alone = soft_triplet(student, teacher, torch.arange(4))
    assert float(alone) == 0.0


def test_an_average_follows_parameters_and_buffers_and_shares_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = copy.deepcopy(network)
    states = [{name: value.clone() for name, value in network.state_dict().items()}]
    for _ in range(3):
        network(torch.randn(8, 3)).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        states.append({name: value.clone() for name, value in network.state_dict().items()})
        update_average(average, network, 0.9)
    for name, value in average.state_dict().items():
        expected = states[0][name]
        for state in states[1:]:
            expected = 0.9 * expected + 0.1 * state[name] if expected.is_floating_point() else state[name]
        torch.testing.assert_close(value, expected)
    pointers = {value.data_ptr() for value in average.state_dict().values()}
    assert pointers.isdisjoint(value.data_ptr() for value in network.state_dict().values())


def test_the_average_is_a_plain_mean_at_first() -> None:
    values, average = [4.0, 1.0, 7.0, 2.0], torch.nn.Linear(1, 1, bias=False)
    for step, value in enumerate(values):
        network = torch.nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, value)
        update_average(average, network, warmed_decay(step, 0.999))
    assert float(average.weight) == pytest.approx(np.mean(values))
    assert warmed_decay(10_000, 0.999) == 0.999


def test_a_second_domain_has_norms_of_its_own_and_all_other_weights_in_common() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    norms = DomainNorms(network)
    images = torch.rand(4, 3, 32, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    plain = copy.deepcopy(network)  # the reference: a network with the second domain's norms as its only ones
    expected = plain(images)
    found = norms.run(network, images)
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for key, norm in norms.norms.items():
        own = plain.get_submodule(key.replace("/", "."))
        torch.testing.assert_close(norm.running_mean, own.running_mean)
        torch.testing.assert_close(norm.running_var, own.running_var)
        assert int(norm.num_batches_tracked) == 1

    found.sum().backward()
    shared = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert shared == {name for name, _ in network.named_parameters()} - {
        f"{key.replace('/', '.')}.{name}" for key in norms.norms for name in ("weight", "bias")
    }
    assert all(parameter.grad is not None for parameter in norms.parameters())
