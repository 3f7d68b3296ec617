"""The head of a Re-ID network: batch-norm neck and identity classifier (Luo et al., CVPRW 2019, section 3.6)."""

from __future__ import annotations

from torch import Tensor, nn


class BNNeck(nn.Module):
    """Batch normalization between the features of the triplet loss and those of the classifier.

    The triplet loss acts on the features before the neck, the classifier and the cosine distance of retrieval on those
    after it. The shift is fixed at 0, so that the classifier's hyperplanes pass through the origin.

    Args:
        num_features: dimension of the features.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = _norm(num_features)

    def resize(self, num_features: int) -> None:
        """Start anew with another dimension; the same dimension leaves everything as it is."""
        if num_features != self.norm.num_features:
            self.norm = _norm(num_features).to(self.norm.weight.device).train(self.training)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, which the triplet loss compares, to embeddings, which are classified and retrieved.

        Args:
            features: (B, ``num_features``) pooled features; in training B > 1.

        Returns:
            (B, ``num_features``) embeddings, not of unit length.
        """
        return self.norm(features)


def _norm(num_features: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(num_features)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    norm.bias.requires_grad_(False)
    return norm


class IdentityClassifier(nn.Linear):
    """Bias-free linear layer from embeddings to identities, drawn from a normal distribution of deviation 0.001.

    Args:
        num_features: dimension of the embeddings.
        num_identities: number of training identities, >= 1.
    """

    def __init__(self, num_features: int, num_identities: int) -> None:
        super().__init__(num_features, num_identities, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.weight, std=0.001)
