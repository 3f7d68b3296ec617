"""Run ``pipeline``: run all stages of a chain, skipping what need not run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import UserError, check_workers, nearest

if TYPE_CHECKING:
    from diffreid_lightning.pipeline.graph import Chain

DEFAULT = "chains/tour"
_USAGE = "python -m diffreid_lightning pipeline [options]"
_OPTIONS = ("config", "from", "until", "jobs")
_DESCRIPTION = (
    "Run a chain of stages: caption, personalize, generate, score, select, pre-train, transfer. A stage whose input, "
    "config and code are unchanged is skipped; a chain that was killed goes on where it was."
)
_VARIABLES = (
    "Variables of the chain are options, too, such as --root DIR or --data /data/market1501; else DIFFREID_VARIABLE of "
    "the environment counts, which commands by hand read too."
)


def pipeline_command(words: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        UserError: the options or the chain cannot be used, or a stage refused its input.
        RunError: a stage failed.
    """
    parser = CommandParser(_USAGE, _DESCRIPTION)
    parser.epilog = _VARIABLES
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"the chain: a YAML file or a packaged one (default: {DEFAULT}); several are laid over each other",
    )
    parser.add_argument("--from", dest="first", metavar="STAGE", help="start here")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="stop after this one")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="run up to N stages at once, as long as none needs another (default: 2; 1 with a GPU or one core)",
    )
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run the stages up to select on 50 identities (--identities N), 8 generated images of each, in a folder "
        "below the root; print the share of usable images, the cost of the full run, and what to change",
    )
    args, rest = parser.parse_known_args(list(words))
    check_workers("--jobs", args.jobs, 1)
    names, variables = args.config or [DEFAULT], _variables(rest)
    # Import late: --help should not wait for pyarrow.
    from diffreid_lightning.pipeline.graph import read_chain
    from diffreid_lightning.pipeline.runner import run_chain

    if not args.rehearse:
        chain = read_chain(names, variables)
        run_chain(chain, chain.between(args.first, args.last), args.dry_run, args.jobs)
        return 0
    if args.first or args.last:
        raise UserError("A rehearsal runs all stages up to select.", remedy="leave out --from and --until")
    identities = variables.pop("identities", None)  # of the rehearsal; the full run has the chain's own
    _rehearse(read_chain(names, variables), identities, args.dry_run, args.jobs)
    return 0


def _rehearse(chain: Chain, identities: str | None, dry_run: bool, jobs: int | None) -> None:
    from rich.console import Console

    from diffreid_lightning.cli.command_line_flags import written_settings
    from diffreid_lightning.cli.references import find_value
    from diffreid_lightning.pipeline.rehearsal import GENERATE, plan_rehearsal, stages_to_rehearse
    from diffreid_lightning.pipeline.rehearsal_report import RehearsalReport

    console = Console(highlight=False, markup=False)
    settings = {each.name: written_settings(each.words[0], each.words[1:])[0] for each in stages_to_rehearse(chain)}
    (images,) = find_value(settings[GENERATE], "data.init_args.images_per_identity") or (None,)
    if not str(images).isdecimal():
        raise UserError(
            f"Stage {GENERATE!r} does not say how many images it generates of each identity.",
            looked_for="a whole number under data.images_per_identity",
            found=repr(images),
        )
    rehearsal = plan_rehearsal(chain, identities, int(str(images)), settings)
    selected = rehearsal.run(console, dry_run, jobs)
    if not dry_run:
        report = RehearsalReport.measure(rehearsal, selected)
        report.show(console)
        console.print(f"\nThe same as JSON: {report.write()}", soft_wrap=True)


def _variables(words: Sequence[str]) -> dict[str, str]:
    """Return the values of a chain's variables by name."""
    found: dict[str, str] = {}
    queue = list(words)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if not flag.startswith("--"):
            guess = nearest(flag, _OPTIONS)
            raise UserError(
                f"The word {flag!r} belongs to no option.",
                remedy=f"did you mean --{guess}?" if guess else "see python -m diffreid_lightning pipeline --help",
            )
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"{flag} has no value after it.", remedy=f"write {flag} VALUE, or {flag}=VALUE")
            value = queue.pop(0)
        found[flag.removeprefix("--").replace("-", "_")] = value
    return found
