"""Count the images that a scorer finds nearest to the person of their label, among all that were scored or kept.

    python -m experiments.filtering.nearest_person runs/experiments/bold_generator/made/b*/campus/*/*/kept/diff_person

Nearest is a margin above 0: the label's centroid is nearer than that of any other person.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.report import share_of, table
from experiments.instruments.script import run_script


def _run(given: argparse.Namespace) -> None:
    lines: list[list[object]] = []
    for folder in given.folders:
        images = Manifest.read(folder)
        lines.append([folder, len(images), share_of(images.numpy("margin") > 0, images.identities()[0])])
    print(table("Nearest to the person of the label", ["images of", "images", "nearest (over people)"], lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="manifests with the column margin")
    sys.exit(run_script(_run, parser.parse_args()))
