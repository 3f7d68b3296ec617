"""Clusterers that give unlabeled images pseudo labels, one per file."""

from diffreid_lightning.unsupervised.clusterers.base import Clusterer
from diffreid_lightning.unsupervised.clusterers.dbscan import DBSCAN
from diffreid_lightning.unsupervised.clusterers.kmeans import KMeans

__all__ = ["DBSCAN", "Clusterer", "KMeans"]
