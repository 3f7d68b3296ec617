"""Run ``data browse``: write pages to look through the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.paths import user_path
from diffreid_lightning.report.dataset_browser import open_parts, write_browser

_USAGE = "python -m diffreid_lightning data browse PATH --out FOLDER"


def browse_command(words: Sequence[str]) -> int:
    """Run ``data browse PATH --out FOLDER``.

    Raises:
        UserError: the command line or the dataset cannot be used, or the folder holds something else.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("path", help="a dataset's folder or .zip, a manifest, the --out of select, or miniperson")
    parser.add_argument("--out", required=True, help="the folder to write; an earlier one of this command is replaced")
    args = parser.parse_args(list(words))
    out = user_path(args.out)
    parts = open_parts(args.path)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("writing pages", total=None)
        thumbnails = write_browser(
            parts, out, f"Images of {args.path}", lambda done, total: progress.update(task, completed=done, total=total)
        )
    print(f"{sum(map(len, parts)):,} images, {thumbnails:,} thumbnails: open {out / 'index.html'}")
    return 0
