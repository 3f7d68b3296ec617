"""Run ``data export``: write a dataset in the layout that other toolboxes read."""

from __future__ import annotations

from collections.abc import Sequence

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.market_export import export_market1501
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning data export PATH --format market1501 --out DIR"


def export_command(words: Sequence[str]) -> int:
    """Run ``data export PATH --format market1501 --out DIR``.

    Raises:
        UserError: the command line, the dataset or the folder cannot be used.
        RunError: the disk refuses.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("path", help="a dataset's folder or .zip, a manifest, or miniperson")
    parser.add_argument("--format", required=True, choices=["market1501"], help="the layout to write")
    parser.add_argument("--out", required=True, help="the folder to write; an earlier export there is replaced")
    help_ = (
        "write grey images of more than 8 bits anew with 8, LOW as black and HIGH as white, the same for all of them"
    )
    parser.add_argument("--gray_range", nargs=2, type=float, metavar=("LOW", "HIGH"), help=help_)
    args = parser.parse_args(list(words))
    out = user_path(args.out)
    found = export_market1501(open_dataset(args.path).manifest(), out, args.gray_range and tuple(args.gray_range))
    print(f"{found.images:,} images, {found.linked:,} of them hard links: {out}")
    if found.renumbered:
        print(f"people are numbered anew, so that no two share a number: {out / 'identities.csv'}")
    if found.left_out:
        print(f"{found.left_out:,} distractors of the val split were left out: the layout has no place for them")
    others = [suffix for suffix in found.suffixes if suffix != ".jpg"]
    if others:
        print(f"some images are {', '.join(others)}: readers that look for *.jpg alone will not see them")
    return 0
