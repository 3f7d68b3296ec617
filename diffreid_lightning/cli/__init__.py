"""The command line: ``fit``, ``validate``, ``test``, ``predict`` by LightningCLI; commands of their own beside them."""

from diffreid_lightning.cli.main import main

__all__ = ["main"]
