"""Result of a Re-ID evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffreid_lightning.errors import UserError


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """CMC, mAP and mINP of a query set against a gallery, with the per-query values.

    All values are in [0, 1]; tensors are float64 on the CPU. V is the number of queries with at least one match.

    Args:
        cmc: (max_rank,) share of valid queries whose first match is among the k nearest, at ``cmc[k - 1]``.
        mAP: mean of ``ap``.
        mINP: mean of ``inp``.
        ap: (V,) average precision: mean over a query's matches of the precision at the match's rank.
        inp: (V,) number of matches over the rank of the last one (Ye et al., "Deep Learning for Person
            Re-identification: A Survey and Outlook", eq. 11).
        valid: (V,) int64, ascending: indices of the queries with a match.
    """

    cmc: Tensor
    mAP: float
    mINP: float
    ap: Tensor
    inp: Tensor
    valid: Tensor

    def rank(self, k: int) -> float:
        """Return Rank-k: the share of valid queries with a match among the ``k`` nearest gallery entries.

        Raises:
            UserError: ``k`` is outside 1 .. max_rank.
        """
        if not 1 <= k <= len(self.cmc):
            raise UserError(
                f"Rank-{k} is not part of this result.",
                found=f"ranks 1 to {len(self.cmc)}",
                remedy=f"evaluate with max_rank={k} or more." if k > 0 else "give a rank of 1 or more.",
            )
        return float(self.cmc[k - 1])
