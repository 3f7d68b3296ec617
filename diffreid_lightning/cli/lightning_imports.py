"""Import the Lightning commands without garbage collections in between, each of which would look at all new objects."""

from __future__ import annotations

import gc

_collected = gc.isenabled()
gc.disable()
try:
    from diffreid_lightning.cli import lightning_cli
finally:
    if _collected:
        gc.enable()

__all__ = ["lightning_cli"]
