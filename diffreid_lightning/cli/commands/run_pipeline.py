"""Run ``pipeline``: run all stages of a chain, skipping what need not run again."""

from __future__ import annotations

import os
from collections.abc import Sequence

from diffreid_lightning.errors import UserError, check_range, nearest

DEFAULT = "chains/tour"
_OPTIONS = ("config", "from", "until", "jobs")

HELP = f"""usage: python -m diffreid_lightning pipeline [options]

Run a chain of stages: caption, personalize, generate, score, select, pre-train, transfer. A stage whose input, config
and code are unchanged is skipped; a chain that was killed goes on where it was.

  --config NAME    the chain: a YAML file or a packaged one (default: {DEFAULT}); several are laid over each other
  --from STAGE     start here
  --until STAGE    stop after this one
  --jobs N         run up to N stages at once, as long as none needs another (default: 2; 1 with a GPU or one core)
  --dry-run        print the plan and stop
  --VARIABLE VALUE a variable of the chain, such as --root DIR or --data /data/market1501; else DIFFREID_VARIABLE of the
                   environment, which commands by hand read too
"""


def pipeline_command(words: Sequence[str]) -> int:
    """Run the command.

    Args:
        words: the command line after ``pipeline``.

    Returns:
        The exit code.

    Raises:
        UserError: the options or the chain cannot be used, or a stage refused its input.
        RunError: a stage failed.
    """
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    names, given, dry_run = _options(words)
    first, last = given.pop("from", None), given.pop("until", None)
    jobs = _number_of_jobs(given.pop("jobs", None))
    # Here, not above: --help should not wait for pyarrow.
    from diffreid_lightning.pipeline.graph import read_chain
    from diffreid_lightning.pipeline.runner import run_chain

    chain = read_chain(names or [DEFAULT], given)
    run_chain(chain, chain.between(first, last), dry_run, jobs)
    return 0


def _number_of_jobs(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isdecimal():
        raise UserError(
            "--jobs is not a whole number.", looked_for="how many stages may run at once", found=repr(given)
        )
    jobs = int(given)
    check_range("--jobs", jobs, 1, 32 * (os.cpu_count() or 1))
    return jobs


def _options(words: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    names: list[str] = []
    given: dict[str, str] = {}
    dry_run = False
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--dry-run":
            dry_run = True
            continue
        flag, equals, value = word.partition("=")
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
        name = flag.removeprefix("--").replace("-", "_")
        if name == "config":
            names.append(value)
        else:
            given[name] = value
    return names, given, dry_run
