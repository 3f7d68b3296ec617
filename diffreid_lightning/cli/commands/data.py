"""Run ``data``: check a dataset, or hand over to ``data sheet``, ``data export`` and ``data browse``."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Sequence

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from diffreid_lightning.cli.commands.data_browse import browse_command
from diffreid_lightning.cli.commands.data_export import export_command
from diffreid_lightning.cli.commands.data_sheet import sheet_command
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.datasets import FORMATS, Counts, CropFolder, PersonDataset, open_dataset
from diffreid_lightning.datasets.inspect import Report, SplitReport, check
from diffreid_lightning.errors import UserError, nearest

_PROGRAM = "python -m diffreid_lightning data"
_HELP = f"""usage: {_PROGRAM} COMMAND PATH [options]

  check PATH                                    count a dataset beside the published numbers; exit code 1 with a problem
  export PATH --format market1501 --out DIR     write it as a Market-1501 folder
  sheet PATH --out FILE.png                     draw its people, some images each
  browse PATH --out FOLDER                      write pages to look through its images, sorted and filtered

{_PROGRAM} COMMAND --help lists a command's options.
"""
_COMMANDS = {"export": export_command, "sheet": sheet_command, "browse": browse_command}
_OPTIONS = ("--format", "--decode", "--strict")
_HEADINGS = ("split", "ids", "images", "cams", "images\nper id", "ids\nof one", "distr.", "published")


def data_command(words: Sequence[str]) -> int:
    """Run ``data check PATH``, ``data export PATH``, ``data sheet PATH`` or ``data browse PATH``.

    Returns:
        0 when there is no problem, else 1.

    Raises:
        UserError: the command line is not ``check PATH`` with its options, or the dataset cannot be read at all.
    """
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    if list(words[:1]) in (["-h"], ["--help"]):
        print(_HELP)
        return 0
    if list(words[:1]) != ["check"]:
        raise UserError(
            f"There is no command 'data {words[0]}'." if words else "data wants to be told what to do.",
            found="the commands about data are check, export, sheet and browse",
            remedy=f"write {_PROGRAM} check PATH, {_PROGRAM} export PATH --format market1501 --out DIR, "
            f"{_PROGRAM} sheet PATH --out FILE.png, or {_PROGRAM} browse PATH --out FOLDER",
        )
    checker = CommandParser(f"{_PROGRAM} check PATH [options]", None)
    checker.add_argument("path", help="the dataset's folder or .zip, or miniperson")
    checker.add_argument(
        "--format",
        help="open it as this format instead of detecting one, e.g. Market1501; its own options may follow, e.g. "
        "--format PersonFolder --pattern '(?P<pid>\\d+)_c(?P<camera>\\d+)' --train image_train",
    )
    checker.add_argument("--decode", action="store_true", help="read every image: broken, empty, repeated ones")
    checker.add_argument("--strict", action="store_true", help="fail when the counts are not the published ones")
    args, left_over = checker.parse_known_args(list(words[1:]))
    if left_over and not args.format:
        guess = nearest(left_over[0], _OPTIONS)
        raise UserError(
            f"data check has no option {left_over[0]!r}.",
            found=f"it takes a path and {', '.join(_OPTIONS)}",
            remedy=f"did you mean {guess}?" if guess else f"see {_PROGRAM} check --help",
        )
    return _check(args, left_over)


def _check(args: argparse.Namespace, options: Sequence[str]) -> int:
    console = Console()
    dataset = _open_as(args.format, args.path, options) if args.format else open_dataset(args.path)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("decoding", total=None, visible=args.decode, rate="")

        def advance(done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        report = check(dataset, decode=args.decode, strict=args.strict, on_progress=advance)
    print_report(report, console)
    return 0 if report.ok else 1


def _open_as(name: str, path: str, options: Sequence[str]) -> PersonDataset:
    """Open a path as a format, with the format's own options."""
    formats: tuple[type[PersonDataset], ...] = (*FORMATS, CropFolder)
    by_name = {known.__name__: known for known in formats}
    if name not in by_name:
        guess = nearest(name, by_name)
        raise UserError(
            f"There is no dataset format {name!r}",
            looked_for=", ".join(by_name),
            remedy=f"did you mean {guess}?" if guess else "leave --format out to have it detected",
        )
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(by_name[name], skip={"root"})
    try:
        given = parser.parse_args(list(options))
    except ArgumentError as error:
        known = [f"--{option}" for option in inspect.signature(by_name[name]).parameters if option != "root"]
        guess = nearest(options[0], [*known, *_OPTIONS])
        raise UserError(
            f"data check cannot open {name} like this.",
            found=str(error),
            looked_for=f"options of {name}: {', '.join(known) or 'none'}",
            remedy=f"did you mean {guess}?" if guess and guess not in options else f"see {_PROGRAM} check --help",
        ) from error
    return by_name[name](path, **given.as_dict())


def print_report(report: Report, console: Console) -> None:
    """Print what ``check`` found as a table, with its problems and hints below."""
    mark = "✓" if console.encoding.lower().startswith("utf") else "ok"
    table = Table(title=escape(f"{report.description}\n{report.place}"))
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("split", "published") else "right", no_wrap=True)
    for split in report.splits:
        table.add_row(*_cells(split, report.published.get(split.split), mark))
    for name in sorted(set(report.published) - {split.split for split in report.splits}):
        table.add_row(name, *["-"] * 6, "[red]missing[/]")
    console.print(table)
    if report.junk:
        console.print(f"dropped as junk: {report.junk:,} images")
    if report.decoded is not None:
        console.print(f"decoded: {report.decoded.images:,} images, {len(report.decoded.broken):,} broken")
        for name, reason in report.decoded.broken:
            console.print(f"  {escape(name)}: {escape(reason)}")
    for text in report.hints:
        console.print(f"[yellow]look:[/] {escape(text)}")
    for text in report.problems:
        console.print(f"[red]problem:[/] {escape(text)}")
    if not report.ok:
        console.print(f"problems: {len(report.problems)}")
    elif report.decoded is not None and report.decoded.hints:
        console.print(f"it can be used, but images are not all as they should be: see to 'look' ({len(report.hints)})")
    elif report.hints:
        console.print(f"{mark} it can be used; see first to what is marked 'look' ({len(report.hints)})")
    else:
        console.print(f"{mark} no problem found")


def _cells(split: SplitReport, published: Counts | None, mark: str) -> Iterable[str]:
    ours = split.counts
    fewest, median, most = split.images_per_id
    yield split.split
    yield from (f"{ours.ids:,}", f"{ours.images:,}", f"{ours.cameras:,}", f"{fewest}/{median:g}/{most}")
    yield from (f"{split.single_image_ids:,}", f"{split.distractors:,}")
    if published is None:
        yield "-"
    elif published == ours:
        yield f"[green]{mark}[/]"
    else:
        pairs = {
            "ids": ours.ids - published.ids,
            "images": ours.images - published.images,
            "cameras": ours.cameras - published.cameras,
        }
        yield "[red]" + "\n".join(f"{what} {more:+,}" for what, more in pairs.items() if more) + "[/]"
