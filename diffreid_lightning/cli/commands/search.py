"""``search``: the most similar gallery images of each query image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.embed import (
    IMAGES_HELP,
    MODEL_HELP,
    add_loader_options,
    check_loader_options,
    describe,
)
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.paths import user_path

if TYPE_CHECKING:
    from diffreid_lightning.deployment.feature_files import FeatureFile

_USAGE = "python -m diffreid_lightning search QUERY GALLERY --model RUN --out FOLDER"


def search_command(words: Sequence[str]) -> int:
    """Run ``search QUERY GALLERY --model RUN --out FOLDER``.

    Args:
        words: the command line after ``search``.

    Returns:
        0.

    Raises:
        UserError: the command line, the images, the network or the folder cannot be used.
        RunError: the disk refuses.
    """
    parser = _Parser(prog=_USAGE.partition(" QUERY")[0], description=__doc__, allow_abbrev=False)
    parser.add_argument("query", help=f"{IMAGES_HELP}; or a file that embed has written")
    parser.add_argument("gallery", help="likewise; the features of images are kept in --out and used again")
    parser.add_argument("--model", help=f"{MODEL_HELP}; not needed for two files of features")
    parser.add_argument("--out", required=True, help="the folder of matches.csv and rank_lists.png")
    parser.add_argument("--top", type=int, default=10, help="ranks of each query (default: 10)")
    add_loader_options(parser)
    args = parser.parse_args(list(words))
    check_loader_options(args)
    check_range("--top", args.top, 1, 1000)

    # Here, not above: --help should not wait for torch.
    from diffreid_lightning.deployment.gallery_search import MATCHES, PICTURE, search

    out = user_path(args.out)
    gallery = _features(args, args.gallery, out / "gallery.parquet")
    query = gallery if args.query == args.gallery else _features(args, args.query, out / "query.parquet")
    count = search(query, gallery, out, args.top)
    print(f"{count:,} queries in {len(gallery.rows):,} images: {out / MATCHES}\nrank lists: {out / PICTURE}")
    return 0


def _features(args: argparse.Namespace, given: str, file: Path) -> FeatureFile:
    """Open a file of features, or compute them from images."""
    from diffreid_lightning.deployment.embedding import embed, open_images
    from diffreid_lightning.deployment.feature_files import is_feature_file, open_features
    from diffreid_lightning.deployment.trained_network import load_trained

    if is_feature_file(given):
        return open_features(given)
    if args.model is None:
        raise UserError(
            f"{given} holds images, and no network is given to compare them.",
            remedy="give --model RUN, or files that embed has written",
        )
    print(describe(embed(open_images(given), load_trained(args.model), file, args.batch_size, args.num_workers)))
    return open_features(file)


class _Parser(CommandParser):
    command = "search"
    to_write = _USAGE
