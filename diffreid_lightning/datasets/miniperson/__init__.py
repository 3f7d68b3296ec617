"""The dataset that ships with the package: its reader and its archives."""

from diffreid_lightning.datasets.miniperson.dataset import MiniPerson

__all__ = ["MiniPerson"]
