"""Run ``embed``: write the features of any images by a trained network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import check_range, check_workers
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning embed PATH --model RUN --out FILE.parquet"
MODEL = "a run folder, a timm folder that fit or convert has written, or a checkpoint file"
IMAGES = "a folder or .zip of crops or of a dataset, a table (.csv, .parquet), one image, or miniperson"


def embed_command(words: Sequence[str]) -> int:
    """Run ``embed PATH --model RUN --out FILE``.

    Raises:
        UserError: the command line, the images, the network or the file cannot be used.
        RunError: the disk refuses.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("path", help=IMAGES)
    parser.add_argument("--model", required=True, help=MODEL)
    help_ = "the file to write: .parquet, .npz, or .npy with a .csv of the rows beside it; an interrupted one goes on"
    parser.add_argument("--out", required=True, help=help_)
    args = parse_with_loader(parser, words)
    write_embedding(args, args.path, user_path(args.out))
    return 0


def parse_with_loader(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Add the options of commands that compute features, and parse the command line.

    Raises:
        UserError: it cannot be used.
    """
    parser.add_argument("--batch_size", type=int, default=128, help="images at a time (default: 128)")
    parser.add_argument("--num_workers", type=int, help="processes that read images (default: one per core, at most 8)")
    args = parser.parse_args(list(words))
    check_range("--batch_size", args.batch_size, 1, 65536)
    check_workers("--num_workers", args.num_workers)
    return args


def write_embedding(args: argparse.Namespace, images: str, out: Path, replace: bool = False) -> None:
    """Write the features of images by ``--model``, in place of others with ``replace``, and say how fast."""
    # Import late: --help should not wait for torch.
    from diffreid_lightning.deployment.embedding import embed, open_images
    from diffreid_lightning.deployment.trained_network import load_trained

    rows = open_images(images)
    made = embed(rows, load_trained(args.model), out, args.batch_size, args.num_workers, replace)
    speed = f"{made.computed:,} of them now, {made.computed / max(made.seconds, 1e-9):,.0f} images/s"
    print(f"{made.images:,} features, {speed if made.computed else 'all there already'}: {made.path}")
