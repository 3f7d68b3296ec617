"""``python -m diffreid_lightning data ...``: commands about datasets rather than models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import diffreid_lightning.data.check as check


def data_command(words: Sequence[str]) -> int:
    """Run ``data check PATH`` and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m diffreid_lightning data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser("check", help="count a dataset and compare it with the published numbers")
    check.add_arguments(checker)
    return check.run(parser.parse_args(list(words)))
