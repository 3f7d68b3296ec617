"""The command line: ``fit``, ``validate``, ``test``, ``predict`` by LightningCLI, ``data check`` beside them."""

from diffreid_lightning.cli.main import main

__all__ = ["main"]
