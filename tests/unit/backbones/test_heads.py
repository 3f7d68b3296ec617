"""The neck and the classifier."""

from __future__ import annotations

import pytest
import torch

from diffreid_lightning.backbones import BNNeck, CosineClassifier, IdentityClassifier


def test_neck_normalizes_in_training_and_has_no_shift() -> None:
    neck = BNNeck(6)
    embeddings = neck(torch.randn(64, 6) * 3 + 5)
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.var(0, unbiased=False), torch.ones(6), atol=1e-4, rtol=0)
    assert [name for name, parameter in neck.named_parameters() if parameter.requires_grad] == ["norm.weight"]
    assert not neck.norm.bias.any()


def test_neck_uses_running_statistics_in_evaluation() -> None:
    neck = BNNeck(3).eval()
    neck.norm.running_mean.fill_(2.0)
    neck.norm.running_var.fill_(4.0)
    torch.testing.assert_close(neck(torch.full((1, 3), 4.0)), torch.full((1, 3), 1.0), atol=1e-4, rtol=0)


def test_classifier_is_bias_free_and_starts_near_zero() -> None:
    torch.manual_seed(0)
    classifier = IdentityClassifier(512, 200)
    assert classifier.bias is None
    assert classifier(torch.zeros(2, 512)).shape == (2, 200)
    assert abs(classifier.weight.std().item() - 1e-3) < 2e-5
    assert abs(classifier.weight.mean().item()) < 2e-5


def test_cosine_classifier_gives_cosines_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    classifier, embeddings = CosineClassifier(16, 5), torch.randn(6, 16) * 40
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(embeddings)
    assert logits.dtype == torch.float32
    lengths = embeddings.norm(dim=1)[:, None] * classifier.weight.norm(dim=1)[None]
    torch.testing.assert_close(logits, embeddings @ classifier.weight.T / lengths)
    assert abs(CosineClassifier(512, 200).weight.std().item() - 1e-2) < 2e-4


@pytest.mark.parametrize("cls", [IdentityClassifier, CosineClassifier])
def test_parts_have_classifiers_of_their_own(cls: type[IdentityClassifier]) -> None:
    """Those of parts that are classifiers of their own, whose weights lie side by side."""
    classifier, embeddings = cls(7, 5), torch.randn(6, 7)
    logits = classifier.score_parts(embeddings, (3, 4))
    for found, columns in zip(logits, (slice(0, 3), slice(3, 7)), strict=True):
        alone = cls(columns.stop - columns.start, 5)
        alone.load_state_dict({"weight": classifier.weight[:, columns]})
        torch.testing.assert_close(found, alone(embeddings[:, columns]))
    (whole,) = classifier.score_parts(embeddings, (7,))
    assert torch.equal(whole, classifier(embeddings))
