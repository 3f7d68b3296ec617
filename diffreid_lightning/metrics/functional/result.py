"""The outcome of a Re-ID evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffreid_lightning.errors import UserError


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """CMC, mAP and mINP of a query set against a gallery, with the per-query values behind them.

    Every value lies in [0, 1]; tensors are float64 on the CPU. V counts the queries with at least one match.

    Args:
        cmc: (max_rank,) share of valid queries whose first match is among the k nearest, at ``cmc[k - 1]``.
        mAP: mean of ``ap``.
        mINP: mean of ``inp``.
        ap: (V,) average precision: the mean, over a query's matches, of the precision at each one's rank.
        inp: (V,) number of matches over the rank of the last one (Ye et al., "Deep Learning for Person
            Re-identification: A Survey and Outlook", eq. 11).
        valid: (V,) int64, ascending: which queries have a match.
    """

    cmc: Tensor
    mAP: float
    mINP: float
    ap: Tensor
    inp: Tensor
    valid: Tensor

    def rank(self, k: int) -> float:
        """Share of valid queries with a match among the ``k`` nearest gallery entries (Rank-k).

        Raises:
            UserError: ``k`` lies outside 1 .. max_rank.
        """
        if not 1 <= k <= len(self.cmc):
            raise UserError(
                f"Rank-{k} is not part of this result.",
                found=f"ranks 1 to {len(self.cmc)}",
                remedy=f"evaluate with max_rank={k} or more." if k > 0 else "ask for rank 1 or more.",
            )
        return float(self.cmc[k - 1])
