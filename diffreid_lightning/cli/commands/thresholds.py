"""``thresholds``: similarities from which two images count as one person, for wanted error rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.embed import add_loader_options, check_loader_options
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import RunError, UserError, check_range
from diffreid_lightning.paths import user_path

if TYPE_CHECKING:
    from diffreid_lightning.reid.datamodule import PersonImages

_USAGE = "python -m diffreid_lightning thresholds RUN --fmr 0.01"


def thresholds_command(words: Sequence[str]) -> int:
    """Run ``thresholds RUN``.

    Args:
        words: the command line after ``thresholds``.

    Returns:
        0.

    Raises:
        UserError: the command line, the run or its data cannot be used, or the run has held nobody out.
        RunError: the disk refuses.
    """
    parser = _Parser(prog=_USAGE.partition(" RUN")[0], description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the folder of a run that held people out (--data.val_share)")
    help_ = "share of pairs of other people that may count as one person (default: 0.01 0.001)"
    parser.add_argument("--fmr", type=float, nargs="*", default=[0.01, 0.001], metavar="RATE", help=help_)
    help_ = "share of pairs of one person that may be missed"
    parser.add_argument("--fnmr", type=float, nargs="*", default=[], metavar="RATE", help=help_)
    parser.add_argument("--out", help="the folder of thresholds.json and thresholds.png (default: the run folder)")
    add_loader_options(parser)
    args = parser.parse_args(list(words))
    check_loader_options(args)
    for name in ("fmr", "fnmr"):
        for rate in getattr(args, name):
            check_range(f"--{name}", rate, 0, 1, below=True)

    # Here, not above: --help should not wait for torch.
    from rich.console import Console
    from rich.table import Table

    from diffreid_lightning.deployment.embedding import held_out_errors
    from diffreid_lightning.deployment.operating_points import (
        describe_thresholds,
        save_thresholds,
        thresholds_footnote,
        thresholds_table,
    )
    from diffreid_lightning.deployment.trained_network import load_trained

    run = user_path(args.run)
    images = held_out_images(run)
    network = load_trained(run)
    errors = held_out_errors(network, images, args.batch_size, args.num_workers)
    found = {"network": network.record, **describe_thresholds(errors, args.fmr, args.fnmr)}
    headings, *rows = thresholds_table(found)
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(thresholds_footnote(found), soft_wrap=True)
    try:
        note, picture = save_thresholds(found, errors, user_path(args.out) if args.out else run)
    except OSError as error:
        raise RunError("The thresholds cannot be written.", found=str(error), remedy="choose another --out") from error
    print(f"{note}\n{picture}")
    return 0


def held_out_images(run: Path) -> PersonImages:
    """Return the images of the people that a run has held out, by its own settings.

    Raises:
        UserError: there is no such run, its data cannot be opened, or nobody was held out.
    """
    from lightning.pytorch import LightningDataModule

    import diffreid_lightning.registry  # noqa: F401 (its classes can be named without a module from here on)
    from diffreid_lightning import config_files
    from diffreid_lightning.cli.lightning_parser import PROGRAM, LayeredParser
    from diffreid_lightning.cli.references import resolve_references

    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"There is no run at {run}", looked_for=str(file), remedy="give the folder that fit has printed"
        )
    settings = resolve_references(config_files.load_config(file))
    parser = LayeredParser(prog=f"{PROGRAM} thresholds")
    parser.add_subclass_arguments(LightningDataModule, "data")
    try:
        data = parser.instantiate_classes(parser.parse_object({"data": settings.get("data")})).data
    except UserError:
        raise
    except Exception as error:  # of the parser, or of the class
        raise UserError(
            f"The data of the run cannot be opened again: {file}",
            found=" ".join(str(error).split())[:300],
            remedy="bring the data back to where they were",
        ) from error
    images: PersonImages | None = getattr(data, "val_set", None)
    if images is None:
        raise UserError(
            f"{run} has held nobody out: thresholds of people that it was trained on would be too good.",
            looked_for="data.val_share above 0, or a source with a val split",
            found=f"data.val_share {getattr(data, 'val_share', None)}",
            remedy="train again with people held out: python -m diffreid_lightning fit --config "
            f"{file} --data.val_share 0.1",
        )
    return images


class _Parser(CommandParser):
    command = "thresholds"
    to_write = _USAGE
