"""``embed``: the features of any images by a trained network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import check_range, check_workers
from diffreid_lightning.paths import user_path

if TYPE_CHECKING:
    from diffreid_lightning.deployment.embedding import Embedded

_USAGE = "python -m diffreid_lightning embed PATH --model RUN --out FILE.parquet"
_LARGEST_BATCH = 65536
MODEL_HELP = "a run folder, a timm folder that fit or convert has written, or a checkpoint file"
IMAGES_HELP = "a folder or .zip of crops or of a dataset, a table (.csv), one image, or miniperson"


def embed_command(words: Sequence[str]) -> int:
    """Run ``embed PATH --model RUN --out FILE``.

    Args:
        words: the command line after ``embed``.

    Returns:
        0.

    Raises:
        UserError: the command line, the images, the network or the file cannot be used.
        RunError: the disk refuses.
    """
    parser = _Parser(prog=_USAGE.partition(" PATH")[0], description=__doc__, allow_abbrev=False)
    parser.add_argument("path", help=IMAGES_HELP)
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    help_ = "the file to write: .parquet, .npz, or .npy with a .csv of the rows beside it; an interrupted one goes on"
    parser.add_argument("--out", required=True, help=help_)
    add_loader_options(parser)
    args = parser.parse_args(list(words))
    check_loader_options(args)

    # Here, not above: --help should not wait for torch.
    from diffreid_lightning.deployment.embedding import embed, open_images
    from diffreid_lightning.deployment.trained_network import load_trained

    images = open_images(args.path)
    print(describe(embed(images, load_trained(args.model), user_path(args.out), args.batch_size, args.num_workers)))
    return 0


def add_loader_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that compute features."""
    parser.add_argument("--batch_size", type=int, default=128, help="images at a time (default: 128)")
    help_ = "processes that read images (default: one per core, at most 8)"
    parser.add_argument("--num_workers", type=int, help=help_)


def check_loader_options(args: argparse.Namespace) -> None:
    """Refuse numbers out of range."""
    check_range("--batch_size", args.batch_size, 1, _LARGEST_BATCH)
    check_workers("--num_workers", args.num_workers)


def describe(made: Embedded) -> str:
    """Say what was computed, and how fast."""
    if not made.computed:
        return f"{made.images:,} features are there already: {made.path}"
    rate = made.computed / max(made.seconds, 1e-9)
    return f"{made.images:,} features, {made.computed:,} of them now, {rate:,.0f} images/s: {made.path}"


class _Parser(CommandParser):
    command = "embed"
    to_write = _USAGE
