"""W&B that is always on and never in the way."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

_PUBLIC_HOST = "https://api.wandb.ai"


def has_credentials() -> bool:
    """Tell whether W&B would find a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", _PUBLIC_HOST)).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if not path:
            continue
        try:
            if netrc.netrc(Path(path).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def tracking_mode() -> str:
    """Return the W&B mode of this process: ``WANDB_MODE`` when set, else online with a key and offline without."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return {"dryrun": "offline", "run": "online"}.get(chosen, chosen)
    return "online" if has_credentials() else "offline"


class WandbTracker(WandbLogger):
    """``WandbLogger`` that needs no key, asks nothing, and cannot stop a run.

    Without a key the run is written to the run folder for ``wandb sync``; ``WANDB_MODE`` (online, offline, disabled) is
    respected. Where W&B cannot start at all (no network, no room, a broken installation), the run goes on without it
    and says so once.

    Args:
        project: W&B project.
        name: display name of the run; None lets W&B choose.
        save_dir: where the files go; "." means the run folder.
        id: run id; None takes the run folder's, so that a continued fit stays one run.
        group: W&B group, for sweeps and seeds.
        tags: W&B tags.
        notes: free text.
    """

    def __init__(
        self,
        project: str = "diffreid",
        name: str | None = None,
        save_dir: str = ".",
        id: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, id=id, project=project, group=group, tags=tags, notes=notes)
        self.mode = tracking_mode()
        self._wandb_init["mode"] = self.mode
        self._wandb_init.pop("anonymous")  # W&B warns of it even when it is None

    @property
    def experiment(self) -> Any:
        """The W&B run of rank zero; on failure a disabled one."""
        if getattr(rank_zero_only, "rank", 0) == 0 and self._experiment is None:
            self._start()
        return super().experiment

    def _start(self) -> None:
        import wandb

        # The console is the run report's; W&B's own wrapper around stdout would also swallow progress bars.
        settings = wandb.Settings(console="off", silent=True, init_timeout=60)
        if self.mode != "disabled":
            Path(self._wandb_init["dir"] or ".").mkdir(parents=True, exist_ok=True)
        try:
            self._experiment = wandb.init(**self._wandb_init, settings=settings)
        except Exception as error:  # wandb raises its own, the network's and the system's errors here
            rank_zero_warn(
                f"W&B could not start ({error}); this run goes on without it. WANDB_MODE=offline avoids this."
            )
            self.mode = "disabled"
            self._experiment = wandb.init(mode="disabled")
        if self.mode == "offline":
            rank_zero_info(f"W&B is offline; send the run later with: wandb sync {Path(self._experiment.dir).parent}")


def finish_tracking() -> None:
    """Close this process's W&B run: what was logged is then on the disk, and the next command starts its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
