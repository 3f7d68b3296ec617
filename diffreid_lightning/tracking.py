"""Log to W&B by default; a failure of W&B never stops a run."""

from __future__ import annotations

import netrc
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlparse

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.paths import user_path

_PUBLIC_HOST = "https://api.wandb.ai"
_OFFLINE = "offline-run-"
_STEP = "trainer/global_step"
#: what is tried next where W&B cannot start
_FALLBACK = {"online": "offline", "offline": "disabled"}
_DEFAULT_PROJECT = "diffreid"
_OLD_NAMES = {"dryrun": "offline", "run": "online"}
Artifacts: TypeAlias = Literal["none", "references", "files"]
_MODES = ("online", "offline", "disabled", "shared", *_OLD_NAMES)


def has_credentials() -> bool:
    """Tell whether W&B would find a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlparse(os.environ.get("WANDB_BASE_URL", _PUBLIC_HOST))
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if not path:
            continue
        try:
            hosts = netrc.netrc(user_path(path)).hosts
            if server.netloc in hosts or server.hostname in hosts or "default" in hosts:  # wandb writes host:port
                return True
        except (OSError, UserError, netrc.NetrcParseError):
            continue
    return False


def default_project() -> str:
    """Return the W&B project of runs that name none: ``WANDB_PROJECT``, else ``diffreid``."""
    return os.environ.get("WANDB_PROJECT") or _DEFAULT_PROJECT


def tracking_mode() -> str:
    """Return the W&B mode of this process: ``WANDB_MODE`` when set, else online with a key and offline without.

    Raises:
        UserError: ``WANDB_MODE`` is not a mode of W&B.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen and chosen not in _MODES:
        raise UserError(
            "WANDB_MODE is not a mode of W&B.",
            looked_for="online, offline or disabled",
            found=chosen,
            remedy="WANDB_MODE=disabled switches W&B off, WANDB_MODE=offline records on this machine; or unset it",
        )
    if chosen:
        return _OLD_NAMES.get(chosen, chosen)
    return "online" if has_credentials() else "offline"


class WandbTracker(WandbLogger):
    """``WandbLogger`` that needs no key, asks nothing, and cannot stop a run.

    Without a key the run is written to the run folder for ``wandb sync``; ``WANDB_MODE`` (online, offline, disabled) is
    respected. A run that cannot start online (no network, a refused key) is recorded offline, one that cannot be
    recorded either (no room, a broken installation) goes on without W&B, and so does one whose W&B fails later; each
    is said once.

    Args:
        project: W&B project; None takes ``WANDB_PROJECT``, else ``diffreid``.
        name: display name of the run; None lets W&B choose.
        save_dir: where the files go; "." means the run folder.
        id: run id; None takes ``WANDB_RUN_ID``, else the run folder's. A continued fit keeps the one it has.
        group: W&B group, for sweeps and seeds.
        tags: W&B tags.
        notes: free text.
        entity: W&B account or team; None takes ``WANDB_ENTITY``, else the key's own.
        artifacts: how inputs and outputs of a stage are logged: ``references`` notes paths and checksums of the files,
            ``files`` uploads them, ``none`` logs none.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        save_dir: str = ".",
        id: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        entity: str | None = None,
        artifacts: Artifacts = "references",
    ) -> None:
        if artifacts not in get_args(Artifacts):
            raise UserError(f"artifacts is {artifacts!r}.", looked_for=" or ".join(get_args(Artifacts)))
        project = project or default_project()
        super().__init__(
            name=name,
            save_dir=str(user_path(save_dir)),
            id=id,
            project=project,
            group=group,
            tags=tags,
            notes=notes,
            entity=entity,
        )
        self.mode = tracking_mode()
        self.artifacts = artifacts
        self._failed = False
        self._held = False
        self._wandb_init.pop("anonymous")  # W&B warns of it even when it is None

    @property
    def experiment(self) -> Any:
        """The W&B run of rank zero; where it cannot start, an offline or a disabled one."""
        if self._held:
            return DummyLogger().experiment
        if getattr(rank_zero_only, "rank", 0) == 0 and self._experiment is None:
            self._start()
        return super().experiment

    def hold(self) -> None:
        """Start nothing yet: a trainer asks every logger for its run as it sets up, before it may refuse to run."""
        self._held = True

    def release(self) -> None:
        """From here on the run starts when it is first used."""
        self._held = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; a failure of W&B is a warning."""
        with self.tolerate_failures():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the configuration; a failure of W&B is a warning."""
        with self.tolerate_failures():
            super().log_hyperparams(params)

    @contextmanager
    def tolerate_failures(self) -> Iterator[None]:
        """Turn failures of W&B and of its disk into one warning per tracker; every other error passes."""
        try:
            yield
        except Exception as error:
            if not _is_tracking_failure(error):
                raise
            if not self._failed:
                rank_zero_warn(
                    f"W&B failed while logging ({first_line(error)}); the run goes on, its W&B record has gaps."
                )
            self._failed = True

    def _start(self) -> None:
        while self._experiment is None:
            try:
                self._experiment = self._init()
            except Exception as error:  # wandb raises its own, the network's and the system's errors here
                if self.mode == "disabled":
                    self._experiment = DummyLogger().experiment
                    return
                self.mode = _FALLBACK.get(self.mode, "offline")
                instead = "is recorded offline" if self.mode == "offline" else "goes on without it"
                rank_zero_warn(f"W&B could not start ({first_line(error)}); this run {instead}.")

    def _init(self) -> Any:
        import wandb

        if self.mode == "disabled":
            return wandb.init(mode="disabled")
        # The console is the run report's; W&B's own wrapper around stdout would also swallow progress bars.
        settings = wandb.Settings(console="off", silent=True, init_timeout=60)
        Path(self._wandb_init["dir"] or ".").mkdir(parents=True, exist_ok=True)
        run = wandb.init(**{**self._wandb_init, "mode": self.mode}, settings=settings)
        # As WandbLogger would: curves over Lightning's global step, not over W&B's count of log calls.
        run.define_metric(_STEP)
        run.define_metric("*", step_metric=_STEP, step_sync=True)
        return run


def log_summary(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Put numbers of a whole run into the summary of its W&B runs; on rank zero."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbTracker):
            with logger.tolerate_failures():
                summary = logger.experiment.summary
                if hasattr(summary, "update"):  # a disabled run has none
                    summary.update(dict(values))


def tolerate_failures(logger: WandbLogger) -> AbstractContextManager[None]:
    """Spare a run the failures of whichever W&B logger it has: see :meth:`WandbTracker.tolerate_failures`."""
    return logger.tolerate_failures() if isinstance(logger, WandbTracker) else nullcontext()


def recorded_as(logger: WandbLogger) -> dict[str, str]:
    """Return id, project and entity of the W&B run that a logger has started, as far as W&B has set them.

    They need not be what was asked for: under a sweep, W&B sets all three itself. Empty where nothing is recorded.
    """
    run = logger._experiment
    if run is None or getattr(run, "disabled", False):
        return {}
    found = {name: getattr(run, name, None) for name in ("id", "project", "entity")}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def finish_tracking() -> None:
    """Close this process's W&B run and wait until it is on the disk; the next command starts its own.

    Of an offline run it is said how to send it. A failure to close it is a warning: it must neither fail a finished run
    nor hide the error that ended one.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        offline = Path(wandb.run.dir).parent if getattr(wandb.run, "offline", False) else None
        try:
            wandb.finish()
            wandb.teardown()  # finish alone returns while W&B's service is still writing
            if offline is not None:
                parts = sorted(offline.parent.glob(f"{_OFFLINE}*-{offline.name.rpartition('-')[2]}"))  # one an attempt
                rank_zero_info(
                    f"W&B is offline; send this run with: wandb sync {shlex.join(map(str, parts or [offline]))}"
                )
        except Exception as error:
            rank_zero_warn(f"W&B could not close its run ({first_line(error)}); the end of its record may be missing.")


def _is_tracking_failure(error: BaseException) -> bool:
    """Tell the system's errors and all of W&B's, which share no base class, from mistakes in the values logged."""
    if isinstance(error, OSError):
        return True
    return any(kind.__module__.partition(".")[0] == "wandb" for kind in type(error).__mro__)
