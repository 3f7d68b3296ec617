"""Random state that follows from the seed and the epoch, so that a continued run needs none saved."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seed Python, NumPy and torch at the start of each training epoch from (run seed, epoch, rank).

    A run continued from an epoch boundary then draws what the uninterrupted run would have drawn (dropout, stochastic
    depth), bit for bit on the CPU. The data have their own seeds (:mod:`diffreid_lightning.datasets.samplers`). Without
    a run seed (``seed_everything: false``) it does nothing.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed this process."""
        run_seed = os.environ.get("PL_GLOBAL_SEED")
        if run_seed is None:
            return
        seed = int(
            np.random.SeedSequence([int(run_seed), trainer.current_epoch, trainer.global_rank]).generate_state(1)[0]
        )
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
