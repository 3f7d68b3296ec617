"""A tiny training job through the real command line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from diffreid_lightning.cli import main
from tests.data.layouts import write_market1501

#: The smallest network timm has; images as small as it takes.
TINY = (
    "--model.backbone=test_resnet",
    "--data.image_size=[64,32]",
    "--data.num_workers=0",
    "--data.sampler.init_args.identities_per_batch=2",
    "--data.sampler.init_args.images_per_identity=2",
    "--data.val_share=0.5",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
)


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Market-1501 folder of a few people: six cameras, junk, distractors."""
    return write_market1501(
        tmp_path_factory.mktemp("data") / "market1501", train_ids=range(2, 10), cameras=(1, 2, 3, 4, 5, 6)
    )


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in-process in an empty folder, without keys or accounts, and without W&B, which takes its time."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    # Lightning's handler keeps the stream it met first, which pytest closes with the first test.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "argv", ["diffreid_lightning"])
    return lambda *words: main(list(map(str, words)))


@pytest.fixture
def tracked(command: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command like ``command``, recorded by W&B as where nobody has chosen a mode: offline."""
    monkeypatch.delenv("WANDB_MODE")
    return command


def start(
    words: list[str],
    folder: Path,
    script: str | None = None,
    launcher: Sequence[str] = (),
    own_group: bool = False,
) -> subprocess.Popen[str]:
    """Start the command as a user would, in a process of its own; or a script that ends in it; or by a launcher.

    ``own_group`` makes it the leader of a process group, so that a signal may be sent to all of them.
    """
    entry = ["-m", "diffreid_lightning"] if script is None else ["-c", script]
    # What commands of this process left behind (a W&B service, a seed, a rank) is not part of a user's shell.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PL_", "LOCAL_", "NODE_", "WORLD_"))}
    return subprocess.Popen(
        [sys.executable, *launcher, *entry, *words],
        cwd=folder,
        env={**clean, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_group,
    )
