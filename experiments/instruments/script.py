"""Run a script and turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from diffreid_lightning.errors import DiffReIDError
from experiments.instruments.pictures import quiet_loaders


def run_script(run: Callable[[argparse.Namespace], None], given: argparse.Namespace) -> int:
    """Run a script's work, with as many threads as its options ask for; a user's mistake ends with its exit code."""
    if hasattr(given, "threads"):
        torch.set_num_threads(given.threads)
    quiet_loaders()
    try:
        run(given)
    except DiffReIDError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
