"""Command line: ``fit``, ``validate``, ``test``, ``predict`` by LightningCLI, and further commands."""

from diffreid_lightning.cli.main import main

__all__ = ["main"]
