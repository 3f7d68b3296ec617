"""The dataset that is part of the package: reader and archives."""

from diffreid_lightning.datasets.miniperson.dataset import MiniPerson

__all__ = ["MiniPerson"]
