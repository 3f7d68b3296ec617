"""Find the gallery entries with the identity of a query, from the same or another camera."""

from __future__ import annotations

import numpy as np


class IdentityPairs:
    """Gallery entries that share a query's identity, listed on demand.

    Those from the query's camera are junk (removed from its ranking); the others are its matches. No id is special.

    Args:
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_camids: (Q,) int64.
        gallery_camids: (G,) int64.
    """

    def __init__(
        self,
        query_pids: np.ndarray,
        gallery_pids: np.ndarray,
        query_camids: np.ndarray,
        gallery_camids: np.ndarray,
    ) -> None:
        self._query_camids, self._gallery_camids = query_camids, gallery_camids
        self._order = np.argsort(gallery_pids, kind="stable")
        ordered = gallery_pids[self._order]
        self._first = np.searchsorted(ordered, query_pids, side="left")
        self._same_pid = np.searchsorted(ordered, query_pids, side="right") - self._first

        cameras, camera_codes = np.unique(np.concatenate([query_camids, gallery_camids]), return_inverse=True)
        _, person_codes = np.unique(np.concatenate([query_pids, gallery_pids]), return_inverse=True)
        # Compact numbers: a (person, camera) table would take gigabytes if each image has its own camera.
        seen, shots = np.unique(person_codes * len(cameras) + camera_codes, return_inverse=True)
        shot_counts = np.bincount(shots[len(query_pids) :], minlength=len(seen))
        self.matches: np.ndarray = self._same_pid - shot_counts[shots[: len(query_pids)]]
        """(Q,) int64: number of matches of each query."""

    def list(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List the same-identity entries of some queries.

        Args:
            queries: (K,) int64.

        Returns:
            Three (P,) arrays, one element per pair, grouped by query in the given order and ascending in the gallery:
            position in ``queries``, gallery index, whether the entry is junk.
        """
        lengths = self._same_pid[queries]
        position = np.repeat(np.arange(len(queries)), lengths)
        within = np.arange(len(position)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        gallery = self._order[self._first[queries][position] + within]
        return position, gallery, self._gallery_camids[gallery] == self._query_camids[queries][position]
