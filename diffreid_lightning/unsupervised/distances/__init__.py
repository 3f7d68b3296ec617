"""Distances between images that clusterers compare, one per file; each finds the pairs within a limit."""

from diffreid_lightning.unsupervised.distances.base import Distance
from diffreid_lightning.unsupervised.distances.camera_distance import CameraJaccardDistance
from diffreid_lightning.unsupervised.distances.cosine_distance import CosineDistance
from diffreid_lightning.unsupervised.distances.jaccard_distance import JaccardDistance

__all__ = ["CameraJaccardDistance", "CosineDistance", "Distance", "JaccardDistance"]
