"""Run ``search``: find the most similar gallery images of each query image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffreid_lightning.cli.commands.embed import IMAGES, MODEL, parse_with_loader, write_embedding
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning search QUERY GALLERY --model RUN --out FOLDER"


def search_command(words: Sequence[str]) -> int:
    """Run ``search QUERY GALLERY --model RUN --out FOLDER``.

    Raises:
        UserError: the command line, the images, the network or the folder cannot be used.
        RunError: the disk refuses.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("query", help=f"{IMAGES}; or a .parquet file that embed has written")
    help_ = "likewise; its features are kept in --out, and used again by the next search there"
    parser.add_argument("gallery", help=help_)
    parser.add_argument("--model", help=f"{MODEL}; not needed for two files of features")
    parser.add_argument("--out", required=True, help="the folder of matches.csv and rank_lists.png")
    parser.add_argument("--top", type=int, default=10, help="ranks of each query (default: 10)")
    args = parse_with_loader(parser, words)
    check_range("--top", args.top, 1, 1000)

    # Import late: --help should not wait for torch.
    from diffreid_lightning.deployment.feature_files import FeatureFile, open_features
    from diffreid_lightning.deployment.gallery_search import MATCHES, PICTURE, search

    out = user_path(args.out)
    opened: dict[str, FeatureFile | None] = {}
    for name, given in (("gallery", args.gallery), ("query", args.query)):
        opened[given] = opened.get(given) or open_features(user_path(given))
        if opened[given] is None:
            if Path(given).suffix == ".parquet" and not user_path(given).exists():
                raise UserError(
                    f"There is no file {given}",
                    looked_for="features that embed has written, or images",
                    remedy=f"write it first: python -m diffreid_lightning embed IMAGES --model RUN --out {given}",
                )
            if args.model is None:
                raise UserError(
                    f"{given} is no file of features, and no network is given to embed images.",
                    looked_for="a .parquet file that embed has written, or --model",
                    remedy="give --model RUN for images",
                )
            # The next search has other queries; a gallery is the work of hours.
            write_embedding(args, given, out / f"{name}.parquet", replace=name == "query")
            opened[given] = open_features(out / f"{name}.parquet")
    query, gallery = opened[args.query], opened[args.gallery]
    assert query is not None and gallery is not None
    search(query, gallery, out, args.top)
    print(f"{len(query.rows):,} queries in {len(gallery.rows):,} images: {out / MATCHES}\nrank lists: {out / PICTURE}")
    return 0
