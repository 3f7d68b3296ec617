"""Compute distances between two sets of features, one tile of queries at a time.

All matrix products have shapes that are multiples of 64 in both directions. BLAS computes a remainder of a few rows or
columns with other kernels, which sum in another order, so that two copies of an image could differ in the last bit by
their position, and results by the number of threads. With whole tiles (measured with MKL, 1 to 64 threads) a distance
depends only on its two features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.errors import UserError

Distance = Literal["cosine", "euclidean"]

TILE = 64
"""Rows and columns of products are multiples of this."""


def row_stride(columns: int) -> int:
    """Return the entries in a row of distances with padding at the end: an odd number of cache lines.

    Every row starts on a cache line. The stride avoids powers of two, at which rows compete for the same cache sets and
    a product takes up to half more time.

    Args:
        columns: entries a row must hold; at least 1.
    """
    return 16 * (-(-columns // 16) | 1)


def allocate_rows(
    rows: int, stride: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Return an uninitialized (rows, stride) buffer whose rows start on 64-byte boundaries."""
    size, spare = rows * stride, 64
    if device is None or device.type == "cpu":
        # NumPy requests huge pages: first writing to a large buffer is several times faster than with torch.
        flat = torch.from_numpy(np.empty(size + spare, dtype=torch.empty(0, dtype=dtype).numpy().dtype))
    else:
        flat = torch.empty(size + spare, dtype=dtype, device=device)
    offset = (-flat.data_ptr() % 64) // flat.element_size()
    return flat[offset : offset + size].view(rows, stride)


def whole_tiles(count: int) -> int:
    """Round ``count`` up to whole tiles."""
    return -(-count // TILE) * TILE


def rows_per_tile(rows: int, columns: int, budget_bytes: int) -> int:
    """Split ``rows`` evenly into tiles of (·, columns) float32 within a budget.

    Returns:
        Rows in a tile: a multiple of 64, at least 64 (even beyond the budget), equal for all tiles.
    """
    most = max(budget_bytes // (4 * columns) // TILE * TILE, TILE)
    tiles = -(-rows // most)
    return whole_tiles(-(-rows // tiles))


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in full float32, independent of the training's settings, without gradients.

    ``torch.set_float32_matmul_precision("medium")`` and autocast use bfloat16 or TF32, also on the CPU, which changes
    results.
    """
    with (
        _float32_products(),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@contextmanager
def _float32_products() -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not all(hasattr(backend, "fp32_precision") for backend in backends):  # before torch 2.9: one setting for both
        general = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(general)
        return
    chosen = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, chosen, strict=True):
            backend.fp32_precision = precision


def norms(name: str, features: Tensor) -> Tensor:
    """Return the Euclidean norm of each row; refuse rows that are not finite.

    Args:
        name: name of the features in the error.
        features: (N, D) float32.

    Returns:
        (N,) float32.

    Raises:
        UserError: a feature is NaN, infinite, or too large to be squared in float32.
    """
    lengths = torch.linalg.vector_norm(features, dim=1)
    broken = (~torch.isfinite(lengths.square())).nonzero().flatten()
    if len(broken):
        raise UserError(
            f"{name} holds values that are not finite (or exceed 1e18): {len(broken)} of {len(features)} rows, "
            f"the first is row {int(broken[0])}.",
            remedy="check for a diverged or wrongly loaded model; metrics of such features are meaningless.",
        )
    return lengths


def inverse(lengths: Tensor) -> Tensor:
    """Return 1 / norm; 0 for a zero row, so that its cosine similarities are 0."""
    return torch.where(lengths > 0, 1 / lengths, torch.zeros_like(lengths))


class ProductColumns:
    """Right-hand side of tiled products: features used in place, and their remainder padded to a whole tile.

    Args:
        features: (N, D) float32, contiguous.
    """

    def __init__(self, features: Tensor) -> None:
        self.count = len(features)
        self.padded = whole_tiles(self.count)
        self._body = features[: self.count // TILE * TILE]
        remainder = features[len(self._body) :]
        self._remainder = features.new_zeros(TILE if len(remainder) else 0, features.shape[1])
        self._remainder[: len(remainder)] = remainder

    def product_into(self, out: Tensor, rows: Tensor, first: int = 0) -> None:
        """Write ``rows @ features[first:].T`` and zeros for the padding.

        Args:
            out: (R, padded - first), rows contiguous.
            rows: (R, D), R a multiple of 64.
            first: a multiple of 64.
        """
        body = len(self._body) - first
        if body:
            torch.mm(rows, self._body[first:].T, out=out[:, :body])
        if len(self._remainder):
            torch.mm(rows, self._remainder.T, out=out[:, body:])


class DistanceTiles:
    """Tiles of a distance that ranks the gallery for each query: smaller is nearer.

    Cosine gives ``-cos``; Euclidean gives ``|g|² - 2 q·g``, the squared distance without the constant ``|q|²``. Norms
    are applied to the product, to avoid a normalized copy of the gallery.

    Args:
        query_features: (Q, D) float32, contiguous.
        gallery_features: (G, D) float32, contiguous, on the same device.
        distance: ``"cosine"`` or ``"euclidean"``.

    Raises:
        UserError: a feature is not finite.
    """

    def __init__(self, query_features: Tensor, gallery_features: Tensor, distance: Distance) -> None:
        self._queries = query_features
        self._columns = ProductColumns(gallery_features)
        self.columns = self._columns.padded
        self.stride = row_stride(self.columns)
        query_norms = norms("query_features", query_features)
        gallery_norms = norms("gallery_features", gallery_features)
        self._multiplies = distance == "cosine"
        if self._multiplies:
            self._query_scale = -inverse(query_norms)
            self._gallery_term = inverse(gallery_norms)
        else:
            self._query_scale = torch.full_like(query_norms, -2.0)
            self._gallery_term = gallery_norms.square()

    def tiles(self, queries: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the distances of some queries, in order, tile by tile.

        Args:
            queries: (K,) int64, indices of the queries, on the features' device.
            rows: rows in a tile; a multiple of 64.

        Yields:
            The position in ``queries`` of the tile's first row, and the (n, stride) tile on the CPU, padded with +inf;
            the next tile overwrites it.
        """
        count, device = self._columns.count, self._queries.device
        buffer = allocate_rows(rows, self.stride, device=device)
        on_cpu = buffer if device.type == "cpu" else allocate_rows(rows, self.stride)
        left = self._queries.new_empty(rows, self._queries.shape[1])
        for start in range(0, len(queries), rows):
            chosen = queries[start : start + rows]
            n = len(chosen)
            torch.index_select(self._queries, 0, chosen, out=left[:n])
            left[:n] *= self._query_scale[chosen].unsqueeze(1)
            left[n:] = 0
            padded = whole_tiles(n)
            self._columns.product_into(buffer[:padded, : self.columns], left[:padded])
            distances = buffer[:n, :count]
            if self._multiplies:
                distances *= self._gallery_term
            else:
                distances += self._gallery_term
            buffer[:n, count:] = torch.inf
            if on_cpu is not buffer:
                on_cpu[:n].copy_(buffer[:n])
            yield start, on_cpu[:n]
