"""Check that MiniPerson, rendered again from its seed, equals the one in the package.

    python -m tools.miniperson.render --domain campus --out data/campus
    python -m benchmarks.rendered_again --campus data/campus [--station data/station]

prints, for each domain that is given, whether the manifests are the same cell by cell, the share of image files that
are the same to the byte, and by how many levels of 255 the others differ. On one kind of processor all are the same;
another one rounds otherwise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.dataset.miniperson import DOMAINS
from experiments.instruments.report import table
from experiments.instruments.script import run_script


@dataclass(frozen=True)
class Comparison:
    """Two renderings of the same set.

    Args:
        same_manifest: all cells of the manifests are equal.
        images: how many there are.
        same_files: how many image files have the same bytes.
        largest: largest difference of a pixel's channel, in levels of 0..255.
        changed: share of the differing images' pixels that differ in any channel, 0 to 1.
    """

    same_manifest: bool
    images: int
    same_files: int
    largest: int
    changed: float


def compare(ours: Manifest, again: Manifest) -> Comparison:
    """Compare manifests and images, by file name.

    Raises:
        UserError: they do not hold the same files.
    """
    names = ours.table["file_name"].to_pylist()
    missing = set(names) ^ set(again.table["file_name"].to_pylist())
    if missing:
        raise UserError(f"{again.root} is not a rendering of this set.", found=f"not in both: {min(missing)}")
    same, largest, changed = 0, 0, []
    for name in names:
        if ours.images.read(name) == again.images.read(name):
            same += 1
            continue
        first, second = (np.asarray(each.images.image(name)).astype(np.int16) for each in (ours, again))
        difference = np.abs(first - second).max(axis=2)
        largest = max(largest, int(difference.max()))
        changed.append(float((difference > 0).mean()))
    mean = sum(changed) / len(changed) if changed else 0.0
    return Comparison(ours.content_hash == again.content_hash, len(names), same, largest, mean)


def _compare(given: argparse.Namespace) -> None:
    folders = {domain: folder for domain in DOMAINS if (folder := getattr(given, domain)) is not None}
    if not folders:
        raise UserError("There is nothing to compare.", remedy="give --campus FOLDER, --station FOLDER or both")
    rows = []
    for domain, folder in folders.items():
        found = compare(MiniPerson(domain).manifest(), Manifest.read(folder))
        rows.append(
            [
                domain,
                "the same" if found.same_manifest else "another",
                f"{found.same_files:,} of {found.images:,}",
                f"{100 * found.same_files / found.images:.0f} %",
                found.largest,
                f"{100 * found.changed:.1f} %",
            ]
        )
    heads = ["", "manifest", "files with the same bytes", "", "largest difference, levels", "their pixels that differ"]
    print(table("MiniPerson rendered again", heads, rows))


def main(args: list[str] | None = None) -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description="Compare MiniPerson, rendered again, with the one in the package.")
    for domain in DOMAINS:
        parser.add_argument(f"--{domain}", type=Path, help="folder of that domain, rendered again")
    parser.add_argument("--threads", type=int, default=1, help="of every operation")
    return run_script(_compare, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
