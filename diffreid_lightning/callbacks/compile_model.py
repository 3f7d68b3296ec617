"""torch.compile as a trainer option."""

from __future__ import annotations

import operator
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer


class CompileBackbone(Callback):
    """Compile the module's backbone, or other networks of it, in place, so that checkpoints keep their names.

    ``--trainer.callbacks+=CompileBackbone``

    Args:
        mode: ``torch.compile``'s mode.
        dynamic: compile once for every batch shape; the last, smaller batch of an evaluation then costs nothing extra.
        networks: dotted names of what is compiled.
    """

    def __init__(
        self,
        mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        dynamic: bool | None = None,
        networks: tuple[str, ...] = ("backbone",),
    ) -> None:
        self.mode = mode
        self.dynamic = dynamic
        self.networks = networks
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile once, whatever the stages that follow."""
        if not self._done:
            for name in self.networks:
                operator.attrgetter(name)(pl_module).compile(mode=self.mode, dynamic=self.dynamic)
            self._done = True
