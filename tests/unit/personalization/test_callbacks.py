"""What the callbacks of personalization refuse, before the training."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule

from diffreid_lightning.errors import UserError
from diffreid_lightning.personalization.callbacks import IdentitySheets, PersonalizationExport


class Saved(LightningModule):
    def save(self) -> None: ...

    def pipeline(self) -> None: ...


@pytest.mark.parametrize("callback", [PersonalizationExport(), IdentitySheets()])
def test_other_modules_are_refused_before_the_training(callback: Callback) -> None:
    trainer: Any = None
    with pytest.raises(UserError, match=rf"{type(callback).__name__} does not work on LightningModule"):
        callback.on_fit_start(trainer, LightningModule())
    callback.on_fit_start(trainer, Saved())
