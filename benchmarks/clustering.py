"""Measure time and memory of clustering for unsupervised Re-ID, beside the dense way.

    python -m benchmarks.clustering [--images 32621] [--dense 8000] [--large 100000] [--device cuda]

prints a Markdown table. Every row runs in a process of its own, from float32 features in memory to labels, DBSCAN with
eps 0.6 and 4 samples. Features are random ones of people under 15 cameras, as many images per person as MSMT17's
training set has, whose size is the default. Memory is the largest growth of the resident set over the features and the
loaded libraries (Linux only), on a GPU also that of the device's memory.

The dense way is that of the published implementations, in numpy: N × N matrices of distances, encodings and Jaccard
distances, filled row by row, and scikit-learn's DBSCAN. Its labels are compared with the sparse ones of the images.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn import cluster
from torch import Tensor

from benchmarks.added_memory import GIB, AddedMemory
from benchmarks.random_features import make_training_images
from diffreid_lightning.unsupervised.clusterers import DBSCAN
from diffreid_lightning.unsupervised.clusterers.base import number_by_first_image
from diffreid_lightning.unsupervised.distances import CameraJaccardDistance

Labels = npt.NDArray[np.int64]

IMAGES, PEOPLE, CAMERAS = 32621, 1041, 15  # of MSMT17's training set
EPS, MIN_SAMPLES, K1, K2 = 0.6, 4, 30, 6


def dense_clusters(features: Tensor, camids: Labels) -> Labels:
    """Cluster the dense way."""
    distances = dense_jaccard(features.cpu().numpy())
    return cluster.DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit(distances).labels_


def dense_jaccard(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute the Jaccard distances of all pairs, (N, N), from unit-norm features."""
    images = len(features)
    distances = 2 - 2 * features @ features.T
    order = np.argpartition(distances, range(K1), axis=1)[:, :K1]
    wide = [mutual_neighbors(order, image, K1) for image in range(images)]
    narrow = [mutual_neighbors(order, image, round(K1 / 2) + 1) for image in range(images)]
    encodings = np.zeros_like(distances)
    for image, members in enumerate(wide):
        agreeing = [other for other in members if 3 * np.isin(narrow[other], members).sum() > 2 * len(narrow[other])]
        widened = np.unique(np.concatenate([members, *(narrow[other] for other in agreeing)]))
        weights = np.exp(-distances[image, widened])
        encodings[image, widened] = weights / weights.sum()
    del distances
    encodings = np.stack([encodings[neighbors[:K2]].mean(axis=0) for neighbors in order])
    listed = [np.flatnonzero(column) for column in encodings.T]
    jaccard = np.empty_like(encodings)
    for image, row in enumerate(encodings):
        shared = np.zeros(images, dtype=np.float32)
        for member in np.flatnonzero(row):
            shared[listed[member]] += np.minimum(row[member], encodings[listed[member], member])
        jaccard[image] = 1 - shared / (2 - shared)
    return np.maximum(jaccard, 0, out=jaccard)


def mutual_neighbors(order: npt.NDArray[np.int64], image: int, count: int) -> npt.NDArray[np.int64]:
    """Find the neighbors among the first ``count`` that have the image among theirs."""
    neighbors = order[image, :count]
    return neighbors[(order[neighbors, :count] == image).any(axis=1)]


ROWS: dict[str, tuple[str, Callable[[Tensor, Labels], Labels]]] = {
    "jaccard": ("**Jaccard, sparse**", DBSCAN(eps=EPS, min_samples=MIN_SAMPLES)),
    "camera": ("**camera-aware Jaccard, sparse**", DBSCAN(CameraJaccardDistance(), EPS, MIN_SAMPLES)),
    "dense": ("Jaccard, dense, scikit-learn", dense_clusters),
}
"""What the rows run: features and cameras in, labels out."""


def measure(name: str, images: int, device: str) -> dict[str, object]:
    """Measure a row in this process."""
    drawn = make_training_images(images, max(round(images * PEOPLE / IMAGES), 1), CAMERAS)
    features, camids = drawn.features.to(device), drawn.camids.numpy()
    run = ROWS[name][1]
    run(features[:64], camids[:64])  # load the libraries before memory is counted
    on_gpu = features.is_cuda
    if on_gpu:
        del drawn
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
    memory = AddedMemory()
    start = time.perf_counter()
    labels = run(features, camids)
    found: dict[str, object] = {
        "seconds": time.perf_counter() - start,
        "added": memory.gib,
        "added_on_device": (torch.cuda.max_memory_allocated() - allocated) / GIB if on_gpu else None,
        "clusters": int(labels.max()) + 1,
        "outliers": int((labels < 0).sum()),
    }
    if name == "dense":
        found["same"] = bool(np.array_equal(ROWS["jaccard"][1](features, camids), number_by_first_image(labels)))
    return found


def line(name: str, images: int, found: dict[str, object]) -> str:
    """Format a measured row."""
    added = " + ".join(f"{found[key]:.2f}" for key in ("added", "added_on_device") if found.get(key) is not None)
    same = ("equal" if found["same"] else "**differ**") if "same" in found else ""
    counts = f"{found['clusters']:,} | {found['outliers']:,}"
    return f"| {ROWS[name][0]} | {images:,} | {found['seconds']:.1f} | {added} | {counts} | {same} |"


def measured_line(name: str, images: int, device: str) -> str:
    """Measure a row in a process of its own and format it."""
    command = [sys.executable, "-m", "benchmarks.clustering", "--row", name, "--images", str(images)]
    process = subprocess.run([*command, "--device", device], stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        return f"| {ROWS[name][0]} | {images:,} | not run: exit {process.returncode} | | | | |"
    return line(name, images, json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    """Run the benchmark, or one row of it."""
    parser = argparse.ArgumentParser(description="Time and memory of clustering for unsupervised Re-ID.")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of the main rows")
    parser.add_argument("--dense", type=int, default=8000, help="images beside the dense way; 0: none")
    parser.add_argument("--large", type=int, default=100_000, help="images of the last row; 0: none")
    parser.add_argument("--device", default="cpu", help="where the features lie: cpu or cuda")
    parser.add_argument("--row", choices=ROWS, help="measure this row alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row, arguments.images, arguments.device)))
        return
    processor = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or "CPU"
    print(f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| distance | images | seconds | memory added, GiB | clusters | outliers | labels of the dense way |")
    print("|---|---|---|---|---|---|---|")
    sizes = [("jaccard", arguments.images), ("camera", arguments.images), ("jaccard", arguments.dense)]
    sizes += [("dense", arguments.dense), ("jaccard", arguments.large)]
    for name, images in sizes:
        if images:
            print(measured_line(name, images, arguments.device), flush=True)


if __name__ == "__main__":
    main()
