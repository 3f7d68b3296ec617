"""Count the right labels among the images that the filters of ``label_noise.yaml`` keep.

    python -m experiments.filtering.recovered ROOT/made/most_c*/campus/*/*/kept/diff_person

The truth is the person of the same file in MiniPerson.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.report import Share, share_of, table
from experiments.instruments.script import run_script


def right_share(kept: Manifest, truth: Manifest) -> Share:
    """Return the share of images that have their own label, with an interval over the people of the labels.

    Args:
        kept: images under labels that may be wrong.
        truth: the same files, and maybe others, under their own labels.
    """
    own = dict(zip(truth.table["file_name"].to_pylist(), truth.numpy("pid"), strict=True))
    whose = np.array([own[name] for name in kept.table["file_name"].to_pylist()])
    return share_of(whose == kept.numpy("pid"), kept.identities()[0])


def _run(given: argparse.Namespace) -> None:
    lines: list[list[object]] = []
    for folder in given.kept:
        kept = Manifest.read(folder)
        source = kept.table["source"][0].as_py()
        truth = open_dataset(source.replace("_", ":")).manifest()
        lines.append([folder, len(kept), right_share(kept, truth)])
    print(table("Right labels", ["kept", "images", "right (over people)"], lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, nargs="+", help="folders with the kept images")
    sys.exit(run_script(_run, parser.parse_args()))
