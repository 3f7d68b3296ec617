"""Diffusion-ReID: generate known people, filter them by Re-ID confidence, pre-train Re-ID backbones on them."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("diffreid_lightning")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
