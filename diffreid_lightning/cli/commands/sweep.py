"""Run ``sweep``: search settings by a W&B sweep file through Optuna, each trial a ``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffreid_lightning.cli.commands.parser import CommandParser, table_console
from diffreid_lightning.errors import UserError, check_range, check_workers

_USAGE = "python -m diffreid_lightning sweep FILE"
_DESCRIPTION = (
    "Run a W&B sweep file without an account, through Optuna (extra sweep). Each trial is an ordinary fit in a folder "
    "of its own. The same command goes on after an interruption, tries failed trials again, and may run several times "
    "at once. In the end it prints all trials, the best one's command, and where the importance of each parameter is "
    "drawn."
)


def sweep_command(words: Sequence[str]) -> int:
    """Run ``sweep FILE``.

    Returns:
        0; 1 where a trial failed.

    Raises:
        UserError: the options, the sweep file or the storage cannot be used.
    """
    parser = CommandParser(_USAGE, _DESCRIPTION)
    parser.add_argument("file", help="the sweep file, or a packaged one: sweeps/supervised")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="stop after N trials in total; also run_cap in the file"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="run N trials at once; each gets one GPU")
    parser.add_argument("--root", metavar="DIR", help="folder of the trials (default: runs/sweeps/NAME)")
    parser.add_argument(
        "--storage", metavar="URL", help="Optuna's storage: a database URL or a journal file (default: SQLite in DIR)"
    )
    given = parser.parse_args(list(words))
    check_range("--trials", given.trials, 1)
    check_workers("--jobs", given.jobs, 1)

    # Import late: --help should not wait for Optuna.
    from diffreid_lightning.benchmark.job_runner import print_failures
    from diffreid_lightning.paths import absolute_path
    from diffreid_lightning.sweeps.sweep_file import read_sweep
    from diffreid_lightning.sweeps.sweep_report import report
    from diffreid_lightning.sweeps.sweep_study import SweepStudy, import_optuna
    from diffreid_lightning.sweeps.trial_command import trial_words
    from diffreid_lightning.sweeps.trial_runner import TrialRunner

    import_optuna()
    sweep = read_sweep(given.file)
    most = min((limit for limit in (given.trials, sweep.run_cap) if limit is not None), default=None)
    if most is None and sweep.method != "grid":
        raise UserError(
            f"A sweep by {sweep.method} has no end.", remedy="give --trials N, or run_cap: N in the sweep file"
        )
    root = absolute_path(given.root or Path("runs/sweeps") / Path(given.file).stem)
    trial_words(sweep, {each.keys: None for each in sweep.parameters}, root)  # refuse its command before any trial
    study = SweepStudy(sweep, root, given.storage)
    failures = TrialRunner(study, most, given.jobs).run()
    report(study, table_console())
    print_failures(failures)
    return 1 if failures else 0
