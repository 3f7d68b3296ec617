"""Run ``report``: show runs, chains and benchmarks on one HTML page."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning report RUN [RUN ...] --out FILE.html"


def report_command(words: Sequence[str]) -> int:
    """Run ``report RUN [RUN ...] --out FILE``.

    Raises:
        UserError: the command line cannot be used, or a folder holds nothing to report on.
        OSError: the page cannot be written.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a chain's --root, a run folder, a folder of runs, a benchmark's --root"
    )
    parser.add_argument("--out", default="report.html", help="the page to write, at most 20 MB (default: report.html)")
    args = parser.parse_args(list(words))
    out = user_path(args.out)
    # Import late: --help should not wait for pyarrow.
    from diffreid_lightning.report.page import write_report

    if out.is_dir():  # before the runs are read, which takes a while
        raise IsADirectoryError(errno.EISDIR, "a folder", str(out))
    size = write_report(args.runs, out)
    print(f"{out} ({size / 1e6:.1f} MB)")
    return 0
