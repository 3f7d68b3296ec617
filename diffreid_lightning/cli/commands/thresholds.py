"""Run ``thresholds``: report the similarities from which two images count as one person, for wanted error rates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.embed import parse_with_loader
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import UserError, check_range, translate_disk_errors
from diffreid_lightning.paths import make_folder, user_path
from diffreid_lightning.storage.json_notes import replace_json

if TYPE_CHECKING:
    from diffreid_lightning.reid.person_images import PersonImages

_USAGE = "python -m diffreid_lightning thresholds RUN --fmr 0.01"


def thresholds_command(words: Sequence[str]) -> int:
    """Run ``thresholds RUN``.

    Raises:
        UserError: the command line, the run or its data cannot be used, or the run has held nobody out.
        RunError: the disk refuses.
    """
    args = _parse(words)
    # Import late: --help should not wait for torch.
    from rich.console import Console
    from rich.table import Table

    from diffreid_lightning.deployment.embedding import held_out_errors
    from diffreid_lightning.deployment.threshold_report import describe_thresholds, draw_thresholds, lay_out
    from diffreid_lightning.deployment.trained_network import load_trained

    run = user_path(args.run)
    out = user_path(args.out) if args.out else run
    if args.images is not None and out.is_file():
        raise UserError("thresholds.json needs a folder.", found=f"the file {out}", remedy="give a folder with --out")
    network = load_trained(run)
    if args.images is None:
        images = _held_out_images(run)
    else:
        images = _labeled_images(args.images, network.backbone.image_size, run)
    errors = held_out_errors(network, images, args.batch_size, args.num_workers)
    found = describe_thresholds(errors, args.fmr, args.fnmr)
    measured_on = "people that the run held out" if args.images is None else str(user_path(args.images))
    (headings, *rows), note = lay_out(found)
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(note, soft_wrap=True)
    with translate_disk_errors(f"Nothing can be written to {out}", "choose another --out"):
        make_folder(out)
        replace_json(
            out / "thresholds.json", {**found, "measured_on": measured_on, "network": network.record}, sort_keys=False
        )
        draw_thresholds(errors, [point["threshold"] for point in found["thresholds"]], out / "thresholds.png")
    print(f"{out / 'thresholds.json'}\n{out / 'thresholds.png'}")
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument(
        "run", metavar="RUN", help="a run folder; one that held people out (--data.val_share), or any with --images"
    )
    help_ = "labeled images of people that the network was not trained on (default: those whom the run held out)"
    parser.add_argument("--images", metavar="PATH", help=help_)
    help_ = "share of pairs of two people that may count as one person (default: 0.01 0.001)"
    parser.add_argument("--fmr", type=float, nargs="*", default=[0.01, 0.001], metavar="RATE", help=help_)
    help_ = "share of pairs of one person that may be missed"
    parser.add_argument("--fnmr", type=float, nargs="*", default=[], metavar="RATE", help=help_)
    parser.add_argument("--out", help="the folder of thresholds.json and thresholds.png (default: the run folder)")
    args = parse_with_loader(parser, words)
    for name, rates in (("--fmr", args.fmr), ("--fnmr", args.fnmr)):
        for rate in rates:
            check_range(name, rate, 0, 1, below=True)
    return args


def _labeled_images(path: str, image_size: tuple[int, int], run: Path) -> PersonImages:
    """Return the people of a dataset, of all its splits, but for those that the run's network was trained on."""
    import numpy as np

    from diffreid_lightning.backbones.weight_provenance import trained_identities
    from diffreid_lightning.datasets import open_dataset
    from diffreid_lightning.datasets.training_rows import hash_identities
    from diffreid_lightning.reid.person_images import search_among

    manifest = open_dataset(path).manifest()
    trained = trained_identities(str(run / "backbone" if (run / "backbone").is_dir() else run))
    labels, people = manifest.identities()
    seen = np.asarray([each in trained for each in hash_identities(people)], dtype=bool)
    known = seen[labels]
    if known.any():
        print(f"Left out: {seen.sum()} people of {path} that the network was trained on.")
        if known.all():
            raise UserError(
                f"The network was trained on all people of {path}: thresholds on them would be too good.",
                remedy="give labeled images of other people with --images PATH",
            )
        manifest = manifest.filter(~known)
    images = search_among([manifest], image_size)
    if images is None:
        raise UserError(f"There are no people in {path}", remedy="give a dataset with identities")
    return images


def _held_out_images(run: Path) -> PersonImages:
    """Return the validation set of a run's own data module."""
    from lightning.pytorch import LightningDataModule

    import diffreid_lightning.registry  # noqa: F401 (its classes can be named without a module from here on)
    from diffreid_lightning import config_files
    from diffreid_lightning.cli import linked_settings
    from diffreid_lightning.cli.lightning_parser import LayeredParser
    from diffreid_lightning.cli.references import resolve_references
    from diffreid_lightning.datasets import CropFolder

    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(f"There is no run at {run}", looked_for=str(file), remedy="give the folder that fit has named")
    settings = resolve_references(config_files.load_config(file))
    parser = LayeredParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    try:
        config = parser.parse_object({"data": settings.get("data")})
        arguments = config.data.get("init_args")
        if arguments and "seed" in arguments and not linked_settings.is_written(settings, linked_settings.DATA_SEED):
            arguments.seed = linked_settings.data_seed(settings.get(linked_settings.SEED))  # it decides who is held out
        data = parser.instantiate_classes(config).data
    except UserError:
        raise
    except Exception as error:  # of the parser, or of the class
        found = " ".join(str(error).split())[:300]
        raise UserError(f"The data of the run cannot be opened again: {file}", found=found) from error
    images: PersonImages | None = getattr(data, "val_set", None)
    if images is None:
        unlabeled = any(isinstance(each, CropFolder) for each in getattr(data, "_train_sources", ()))
        again = f"train with people held out: python -m diffreid_lightning fit --config {file} --data.val_share 0.1"
        raise UserError(
            f"{run} has held nobody out: thresholds on people that it was trained on would be too good.",
            looked_for="data.val_share above 0, or a source with a val split",
            found="images without labels" if unlabeled else f"data.val_share {getattr(data, 'val_share', None)}",
            remedy="give labeled images of other people with --images PATH" + ("" if unlabeled else f", or {again}"),
        )
    return images
