"""Keep the trials of a sweep in an Optuna study, shared by all processes that work in one folder.

A trial is begun under the lock of the folder and holds a lock of its own until it has ended. A running trial whose lock
is free has lost its process: it is continued. Optuna does not restart a failed trial, so another one takes its folder.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffreid_lightning.errors import UserError, first_line, needs_extra
from diffreid_lightning.paths import make_folder, user_path
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.json_notes import read_json, replace_json
from diffreid_lightning.sweeps.sweep_file import Sweep

TRIALS = "trials"
_NOTE, _LOCK, _DATABASE = "sweep.json", ".lock", "sweep.db"
_FOLDER = "folder"  # attribute of a trial that takes over the folder of a failed one
_PATIENCE = 60  # seconds to wait for another process's write to SQLite


@dataclass
class Attempt:
    """A trial that this process is at work on.

    Args:
        trial: Optuna's.
        name: of its folder below ``trials``.
        folder: path of the folder.
        values: of its parameters by keys, constants included.
        lock: held while it runs.
        reported: number of validations that Optuna knows.
        may_have_ended: a result in its folder is its own, since no earlier trial has failed there.
    """

    trial: Any
    name: str
    folder: Path
    values: dict[tuple[str, ...], Any]
    lock: locks.FileLock
    reported: int = 0
    may_have_ended: bool = False

    @property
    def is_again(self) -> bool:
        """Tell whether it repeats a trial that has failed."""
        return _FOLDER in self.trial.user_attrs


class SweepStudy:
    """The study of a sweep; a folder has one.

    Args:
        sweep: the sweep.
        root: the folder.
        storage: a database URL, or the path of an Optuna journal; None is SQLite in the folder.

    Raises:
        UserError: Optuna is missing, the storage cannot be opened, or the folder belongs to another sweep.
    """

    def __init__(self, sweep: Sweep, root: Path, storage: str | None) -> None:
        optuna = import_optuna()
        self.sweep = sweep
        self.root = root
        make_folder(root / TRIALS)
        with self._alone():
            note = self._note(storage)
            pruner: Any = optuna.pruners.NopPruner()
            if sweep.stopping is not None:
                pruner = optuna.pruners.SuccessiveHalvingPruner(sweep.stopping.first, sweep.stopping.eta)
            self.study = optuna.create_study(
                storage=_open_storage(root, storage),
                study_name=note["study"],
                direction=sweep.goal,
                pruner=pruner,
                load_if_exists=True,
            )
            if not (root / _NOTE).exists():  # written last: a storage that cannot be opened must not bind the folder
                replace_json(root / _NOTE, note, sort_keys=False)
        self._own: set[int] = set()  # where nothing can be locked, those of this process would seem to have lost it
        self.others_at_work = False  #: as of the last :meth:`begin`
        self._again = {name for name, trial in self.latest().items() if trial.state.name == "FAIL"}

    def latest(self) -> dict[str, Any]:
        """Return the last of Optuna's trials in each folder, by its name; those that were never begun are left out."""
        found = {}
        for trial in self.study.get_trials(deepcopy=False):
            if set(trial.params) == set(self._distributions()):
                found[trial.user_attrs.get(_FOLDER, f"{trial.number:03d}")] = trial
        return dict(sorted(found.items()))

    def results(self) -> list[float]:
        """Return the values of all finished trials, those of other processes and of earlier starts included."""
        return [each.value for each in self.study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]

    def begin(self, most: int | None) -> Attempt | None:
        """Begin a trial: one that lost its process, one that failed before this process started, or a new one.

        Args:
            most: largest number of trials; None for a grid.

        Returns:
            The trial; None if there is none to begin now.
        """
        with self._alone():
            attempt = self._continued() or self._begun(most)
        if attempt is not None:
            self._own.add(attempt.trial.number)
        return attempt

    def values(self, trial: Any) -> dict[tuple[str, ...], Any]:
        """Return the values of the parameters by their keys."""
        return {each.keys: each.value_of(trial.params.get(each.name)) for each in self.sweep.parameters}

    def end(self, attempt: Attempt, state: str, value: float | None = None) -> None:
        """Record the end of a trial: COMPLETE with its value, PRUNED or FAIL."""
        import optuna

        self.study.tell(attempt.trial.number, value, optuna.trial.TrialState[state])

    def _continued(self) -> Attempt | None:
        from optuna.trial import Trial

        self.others_at_work = False
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name != "RUNNING" or trial.number in self._own:
                continue
            if set(trial.params) != set(self._distributions()):  # killed before all values were drawn
                self.study.tell(trial.number, state=type(trial.state).FAIL)
                continue
            attempt = self._attempt(Trial(self.study, trial._trial_id))
            if attempt is None:
                self.others_at_work = True
            elif self.study.get_trials(deepcopy=False)[trial.number].state.name == "RUNNING":
                attempt.reported = len(trial.intermediate_values)
                attempt.may_have_ended = not attempt.is_again
                return attempt
            else:  # its process has ended it since
                attempt.lock.release()
        return None

    def _begun(self, most: int | None) -> Attempt | None:
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        if all(trial.state.name != "WAITING" for trial in trials):  # else its process was killed before it began
            latest = self.latest()
            failed = next((name for name in latest if name in self._again and latest[name].state.name == "FAIL"), None)
            if failed is not None:
                self._again.discard(failed)
                self.study.enqueue_trial(latest[failed].params, user_attrs={_FOLDER: failed})
            elif most is not None and len(latest) >= most:
                return None
            elif self.sweep.method == "grid":
                known = [trial.params for trial in latest.values()]
                point = next((each for each in self.grid() if each not in known), None)
                if point is None:
                    return None
                self.study.enqueue_trial(point)
        # A seed of its own for each trial, so that a continued sweep does not draw the same values again.
        self.study.sampler = optuna.samplers.RandomSampler(seed=len(trials))
        if self.sweep.method == "bayes":
            self.study.sampler = optuna.samplers.TPESampler(seed=len(trials), constant_liar=True)
        attempt = self._attempt(self.study.ask(self._distributions()))
        self.others_at_work |= attempt is None  # in the folder of a failed trial; once it has ended, this one goes on
        return attempt

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield the draws of each point of a grid."""
        choices = {name: dict.fromkeys(each.choices) for name, each in self._distributions().items()}
        for point in itertools.product(*choices.values()):
            yield dict(zip(choices, point, strict=True))

    def _distributions(self) -> dict[str, Any]:
        return {each.name: each.distribution for each in self.sweep.parameters if each.distribution is not None}

    def _attempt(self, trial: Any) -> Attempt | None:
        """Lock the folder of a trial; None if a process is at work in it."""
        name = trial.user_attrs.get(_FOLDER, f"{trial.number:03d}")
        folder = self.root / TRIALS / name
        folder.mkdir(exist_ok=True)
        lock = locks.take(folder / _LOCK, patience=0, inheritable=True)
        return None if lock is None else Attempt(trial, name, folder, self.values(trial), lock)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the folder."""
        lock = locks.take(self.root / _LOCK, patience=math.inf)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _note(self, storage: str | None) -> dict[str, str]:
        """Return the note in the folder, which names its study, or that of a new one."""
        # A hash: the URL may hold a password.
        place = hashlib.sha256((storage or "").encode()).hexdigest()[:12]
        file = self.root / _NOTE
        if not file.exists():
            name = f"{self.sweep.name}-{secrets.token_hex(4)}"
            return {"study": name, "storage": place, "sweep": self.sweep.identity}
        note = read_json(file, {"study": str, "storage": str, "sweep": str}, remedy="give another --root")
        if (note["sweep"], note["storage"]) != (self.sweep.identity, place):
            what = "another sweep file" if note["storage"] == place else "another --storage"
            raise UserError(
                f"The folder {self.root} was begun with {what}.",
                looked_for="the same method, metric, parameters, command, early_terminate and --storage",
                remedy="restore them, or give another folder with --root",
            )
        return dict(note)


def import_optuna() -> Any:
    """Import Optuna, quiet but for errors.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("sweep", "A sweep without an account needs Optuna."):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _open_storage(root: Path, given: str | None) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        if given is not None and "://" not in given:
            return JournalStorage(JournalFileBackend(str(user_path(given))))
        url = given or f"sqlite:///{(root / _DATABASE).absolute()}"
        options = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else None
        return RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy's, Optuna's, those of the driver and the system
        raise UserError(
            "The storage of the sweep cannot be opened.",
            looked_for="a database URL such as postgresql://USER@HOST/NAME, or the path of a journal file",
            found=first_line(error),
            remedy="check the URL and install the driver of the database, or leave --storage out",
        ) from error
