"""Measure time and memory of Re-ID evaluation and re-ranking, beside the bare product and the established libraries.

    python -m benchmarks.evaluation [--size market|msmt17|both] [--peers] [--repeats 5]

prints Markdown tables. Every row runs in a process of its own, from float32 features in memory to mAP (or to re-ranked
distances). Its time is the median of several runs, each beside a run of the matrix product that any exact method needs
(half of all pairs for re-ranking), made in tiles with aligned rows; the ratio is the median of the pairs' ratios. Its
memory is the largest growth of the resident set over the features and the loaded libraries (Linux only).

``--peers`` adds the evaluators of the PyPI packages ``fastreid`` (1.4.0) and ``torchreid`` (0.2.5). Their requirements
pin old versions of torch or miss some altogether, so put the bare packages beside this one; only the files of their
evaluators are loaded, never the packages:

    pip install --no-deps fastreid torchreid
    pip install cython setuptools
    cd "$(python -c 'import importlib.util as u; print(u.find_spec("fastreid").submodule_search_locations[0])')"
    cd evaluation/rank_cylib && python setup.py build_ext --inplace

The last line compiles fast-reid's Cython evaluator, whose source the package holds but does not build; it takes a C
compiler. The package ``torchreid`` lacks the source of its own (``rank_cy.pyx``): its Python evaluator alone can run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import evaluation_peers as peers
from benchmarks.added_memory import GIB, AddedMemory, kernel_bytes
from benchmarks.random_features import DIMENSION, SIZES, Images, Size, make_images
from diffreid_lightning.metrics.functional import (
    k_reciprocal_rerank,
    retrieval_metrics,
    retrieval_metrics_from_distances,
)
from diffreid_lightning.metrics.functional.tiled_matmul import allocate_rows, row_stride, whole_tiles

TILE_ROWS = 1024


def tiled_product(left: Tensor, right: Tensor) -> None:
    """The lower limit: all inner products, a tile of rows at a time, in one aligned buffer."""
    buffer = allocate_rows(TILE_ROWS, row_stride(whole_tiles(len(right))))[:, : len(right)]
    for rows in left.split(TILE_ROWS):
        torch.mm(rows, right.T, out=buffer[: len(rows)])


def evaluation_product(images: Images) -> None:
    """Queries × gallery."""
    tiled_product(images.query, images.gallery)


def half_product(images: Images) -> None:
    """Half of all images × all images."""
    tiled_product(images.everyone[: len(images.everyone) // 2], images.everyone)


# What the rows run: images in, mAP (or re-ranked distances) out.


def ours(images: Images) -> float:
    """Evaluate with this package."""
    return retrieval_metrics(images.query, images.gallery, *images.ids).mAP


def our_reranking(images: Images) -> Tensor:
    """Re-rank with this package."""
    return k_reciprocal_rerank(images.query, images.gallery)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        title: what the line shows.
        run: what is measured.
        limit: the product it is compared with.
        peer: whether it belongs to another library.
        matrices: bytes per element of a dense Q × G (re-ranking: N × N) matrix it needs, as a guard against swapping.
        minutes: about how long it runs at MSMT17 size; rows over ten minutes are left out there.
    """

    title: str
    run: Callable[[Images], object]
    limit: Callable[[Images], None]
    peer: bool = False
    matrices: int = 0
    minutes: int = 0


ROWS = {
    "product": Row("matrix product alone", evaluation_product, evaluation_product),
    "ours": Row("**diffreid_lightning**", ours, evaluation_product),
    "fastreid_cython": Row("fast-reid, Cython", peers.fastreid_cython, evaluation_product, True, 12, 2),
    "fastreid_python": Row("fast-reid, Python", peers.fastreid_python, evaluation_product, True, 12, 19),
    "torchreid_cython": Row("torchreid, Cython", peers.torchreid_cython, evaluation_product, True, 20, 3),
    "torchreid_python": Row("torchreid, Python", peers.torchreid_python, evaluation_product, True, 20, 19),
    "half": Row("half of the N² product", half_product, half_product),
    "our_reranking": Row("**diffreid_lightning**", our_reranking, half_product),
    "fastreid_reranking": Row("fast-reid", peers.fastreid_reranking, half_product, True, 24, 60),
    "torchreid_reranking": Row("torchreid", peers.torchreid_reranking, half_product, True, 24, 60),
}
SLOW = ("fastreid_python", "torchreid_python", "fastreid_reranking", "torchreid_reranking")  # run once


def timed(run: Callable[[Images], object], images: Images) -> tuple[float, object]:
    """Seconds of one run, and its result."""
    start = time.perf_counter()
    result = run(images)
    return time.perf_counter() - start, result


def measure(row: Row, size: Size, repeats: int) -> dict[str, float | None]:
    """Measure a row in this process."""
    dense = (size.queries + size.gallery) ** 2 if row.limit is half_product else size.queries * size.gallery
    needed = row.matrices * dense
    available = kernel_bytes("meminfo", "MemAvailable")
    if available is not None and needed > available:
        raise peers.NotRunError(f"needs {needed / GIB:.0f} GiB, {available / GIB:.0f} GiB are free")
    images = make_images(size)
    torch.mm(images.query[:64], images.query[:64].T)  # load the BLAS before memory is counted
    memory = AddedMemory()
    pairs = []
    added = None
    for _ in range(repeats):
        seconds, result = timed(row.run, images)
        if added is None:
            added = memory.gib
        pairs.append((seconds, timed(row.limit, images)[0]))
    if isinstance(result, Tensor):
        result = retrieval_metrics_from_distances(result, *images.ids).mAP
    return {
        "seconds": statistics.median(seconds for seconds, _ in pairs),
        "product": statistics.median(limit for _, limit in pairs),
        "ratio": statistics.median(seconds / limit for seconds, limit in pairs),
        "added": added,
        "mAP": result if isinstance(result, float) else None,
    }


def line(name: str, size_name: str, repeats: int) -> str:
    """Measure a row in a process of its own and format it."""
    row = ROWS[name]
    if size_name == "msmt17" and row.minutes > 10:
        return f"| {row.title} | not run: about {row.minutes} minutes or more | | | | |"
    command = [sys.executable, "-m", "benchmarks.evaluation", "--row", name, "--size", size_name]
    command += ["--repeats", str(1 if name in SLOW else repeats)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(process.stdout.splitlines()[-1]) if process.stdout else {"error": f"exit {process.returncode}"}
    if "error" in found:
        return f"| {row.title} | not run: {found['error']} | | | | |"
    added = "" if found["added"] is None else f"{found['added']:.2f}"
    mean = "" if found["mAP"] is None else f"{100 * found['mAP']:.4f}"
    return (
        f"| {row.title} | {found['seconds']:.2f} | {found['product']:.2f} | {found['ratio']:.2f} | {added} | {mean} |"
    )


def print_tables(size_name: str, with_peers: bool, repeats: int) -> None:
    """Print the evaluation and the re-ranking table of one size."""
    size = SIZES[size_name]
    for title, limit in (("Evaluation", evaluation_product), ("k-reciprocal re-ranking", half_product)):
        print(f"\n### {title}, {size.title} size ({size.queries:,} × {size.gallery:,}, {DIMENSION:,}-d)\n")
        print("| | seconds | the product beside it, seconds | × the product | memory added, GiB | mAP |")
        print("|---|---|---|---|---|---|")
        for name, row in ROWS.items():
            if row.limit is limit and (with_peers or not row.peer):
                print(
                    line(name, size_name, 1 if (size_name, limit) == ("msmt17", half_product) else repeats), flush=True
                )


def main() -> None:
    """Run the benchmark, or one row of it."""
    parser = argparse.ArgumentParser(description="Time and memory of Re-ID evaluation and re-ranking.")
    parser.add_argument("--size", choices=[*SIZES, "both"], default="market")
    parser.add_argument("--peers", action="store_true", help="add the evaluators of fastreid and torchreid")
    parser.add_argument("--repeats", type=int, default=5, help="runs behind each median")
    parser.add_argument("--row", choices=ROWS, help="measure this row alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.row:
        try:
            found: dict[str, object] = dict(measure(ROWS[arguments.row], SIZES[arguments.size], arguments.repeats))
        except peers.NotRunError as reason:
            found = {"error": str(reason)}
        print(json.dumps(found))
        return
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for size_name in SIZES if arguments.size == "both" else [arguments.size]:
        print_tables(size_name, arguments.peers, arguments.repeats)


if __name__ == "__main__":
    main()
