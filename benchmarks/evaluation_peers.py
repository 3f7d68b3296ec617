"""Load the evaluators of fast-reid and torchreid, each from one file of the package."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from benchmarks.random_features import Images


class NotRunError(Exception):
    """Says why a row cannot be measured here."""


def cosine_distances(left: Tensor, right: Tensor) -> np.ndarray:
    """The dense matrix that the libraries start from; the features are of unit norm."""
    return (left @ right.T).neg_().add_(1).numpy()


def peer_module(package: str, *path: str) -> ModuleType:
    """Load one file of an installed package without importing the package.

    Args:
        package: the package's name.
        path: folders and a file name's beginning.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotRunError("not installed")
    folder = Path(spec.submodule_search_locations[0], *path[:-1])
    files = [file for file in folder.glob(f"{path[-1]}*") if file.suffix in (".py", ".so", ".pyd")]
    if not files:
        source = (folder / f"{path[-1]}.pyx").exists()
        raise NotRunError("not compiled" if source else f"the package holds no source of `{path[-1]}`")
    file_spec = importlib.util.spec_from_file_location(path[-1], files[0])
    assert file_spec is not None
    assert file_spec.loader is not None
    module = importlib.util.module_from_spec(file_spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file_spec.loader.exec_module(module)
    return module


def fastreid_cython(images: Images) -> float:
    """fast-reid's compiled evaluator."""
    module = peer_module("fastreid", "evaluation", "rank_cylib", "rank_cy")
    return fastreid_mean(module.evaluate_cy, images)


def fastreid_python(images: Images) -> float:
    """fast-reid's evaluator without its extension."""
    module = peer_module("fastreid", "evaluation", "rank")
    return fastreid_mean(module.evaluate_py, images)


def fastreid_mean(evaluate: Callable[..., tuple[object, list[float], object]], images: Images) -> float:
    """Call one of fast-reid's evaluators and average the precision it returns."""
    ids = [values.numpy() for values in images.ids]
    return float(np.mean(evaluate(cosine_distances(images.query, images.gallery), *ids, 50, False)[1]))


def torchreid_cython(images: Images) -> float:
    """Torchreid's compiled evaluator."""
    module = peer_module("torchreid", "reid", "metrics", "rank_cylib", "rank_cy")
    ids = [values.numpy() for values in images.ids]
    return float(module.evaluate_cy(cosine_distances(images.query, images.gallery), *ids, 50, False)[1])


def torchreid_python(images: Images) -> float:
    """Torchreid's evaluator without its extension."""
    module = peer_module("torchreid", "reid", "metrics", "rank")
    ids = [values.numpy() for values in images.ids]
    return float(module.evaluate_py(cosine_distances(images.query, images.gallery), *ids, 50, False)[1])


def dense_reranking(module: ModuleType, images: Images) -> Tensor:
    """Re-rank with one of the libraries, which take three dense matrices."""
    matrices = [
        cosine_distances(left, right)
        for left, right in (
            (images.query, images.gallery),
            (images.query, images.query),
            (images.gallery, images.gallery),
        )
    ]
    return torch.from_numpy(module.re_ranking(*matrices))


def fastreid_reranking(images: Images) -> Tensor:
    """fast-reid's re-ranking."""
    return dense_reranking(peer_module("fastreid", "evaluation", "rerank"), images)


def torchreid_reranking(images: Images) -> Tensor:
    """Torchreid's re-ranking."""
    return dense_reranking(peer_module("torchreid", "reid", "utils", "rerank"), images)
