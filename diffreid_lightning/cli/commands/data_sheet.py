"""Run ``data sheet``: draw some people of a dataset on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.paths import make_folder, user_path
from diffreid_lightning.visualization.identity_sheet import identity_sheet

_USAGE = "python -m diffreid_lightning data sheet PATH --out FILE.png"


def sheet_command(words: Sequence[str]) -> int:
    """Run ``data sheet PATH --out FILE``.

    Raises:
        UserError: the command line or the dataset cannot be used, or ``--out`` names no picture.
        OSError: the file cannot be written.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("path", help="a dataset's folder or .zip, a manifest, or miniperson")
    parser.add_argument("--out", required=True, help="the picture to write: .png or .jpg")
    parser.add_argument("--split", help="only people of this split, such as train")
    parser.add_argument("--identities", type=int, default=12, help="how many people")
    parser.add_argument("--images", type=int, default=8, help="how many images of each")
    args = parser.parse_args(list(words))
    if args.identities < 1 or args.images < 1:
        parser.error("--identities and --images are at least 1")
    manifest = open_dataset(args.path).manifest()
    if args.split:
        manifest = manifest.filter(np.asarray(manifest.numpy("split") == args.split))
    sheet = identity_sheet(manifest, args.identities, args.images)
    out = user_path(args.out)
    make_folder(out.parent)
    try:
        sheet.save(out, quality=90)
    except ValueError as error:
        raise UserError(f"{out} does not name a picture.", found=str(error), remedy="end it in .png or .jpg") from error
    except OSError as error:
        if error.errno is not None:
            raise
        found, remedy = first_line(error), "show fewer people or images, or end --out in .png"
        raise UserError(f"The sheet does not fit into {out}", found=found, remedy=remedy) from error
    print(out)
    return 0
