"""Seeded random evaluations, and slow references that share nothing with the code under test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).with_name("golden_cases.npz")


@dataclass
class Case:
    query_features: Tensor
    gallery_features: Tensor
    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor
    gallery_camids: Tensor

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        return self.query_features, self.gallery_features

    @property
    def ids(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.query_pids, self.gallery_pids, self.query_camids, self.gallery_camids

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.features + self.ids


def golden(name: str) -> dict[str, Any]:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}


def random_case(
    seed: int, queries: int = 30, gallery: int = 130, people: int = 12, cameras: int = 3, dimension: int = 24
) -> Case:
    """Clustered features in general position: no two distances are close to equal."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, dimension, generator=random)

    def images(count: int) -> tuple[Tensor, Tensor, Tensor]:
        pids = torch.randint(people, (count,), generator=random)
        features = centres[pids] + 1.5 * torch.randn(count, dimension, generator=random)
        return features, pids, torch.randint(cameras, (count,), generator=random)

    query, entries = images(queries), images(gallery)
    return Case(query[0], entries[0], query[1], entries[1], query[2], entries[2])


def exact_case(seed: int, queries: int = 40, gallery: int = 150, people: int = 9, dimension: int = 12) -> Case:
    """Features with four entries of ±1: norms are 2 and cosines multiples of 1/4, whatever the order of summation.

    Most distances are tied with many others.
    """
    case = random_case(seed, queries, gallery, people, dimension=dimension)
    random = torch.Generator().manual_seed(seed + 1000)
    for features in case.features:
        places = torch.rand(features.shape, generator=random).argsort(dim=1)[:, :4]
        signs = torch.randint(2, places.shape, generator=random).float() * 2 - 1
        features.zero_().scatter_(1, places, signs)
    return case


def pairwise(case: Case, distance: str) -> np.ndarray:
    """Distances in float64, computed pair by pair."""
    query, gallery = (features.double().numpy() for features in case.features)
    if distance == "cosine":
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        return 1 - query @ gallery.T
    return np.linalg.norm(query[:, None] - gallery[None], axis=-1)


def ranked_entries(distances: np.ndarray, case: Case, query: int) -> list[int]:
    """Gallery indices of a query's ranking, those of its own person and camera removed."""
    kept = [
        entry
        for entry in range(len(case.gallery_pids))
        if case.gallery_pids[entry] != case.query_pids[query] or case.gallery_camids[entry] != case.query_camids[query]
    ]
    return sorted(kept, key=lambda entry: (distances[query, entry], entry))


def reference_evaluation(distances: np.ndarray, case: Case, max_rank: int) -> dict[str, Any]:
    """The protocol, word by word."""
    valid, first_hits, ap, inp = [], [], [], []
    for query in range(len(case.query_pids)):
        ranking = ranked_entries(distances, case, query)
        hits = [
            rank for rank, entry in enumerate(ranking, start=1) if case.gallery_pids[entry] == case.query_pids[query]
        ]
        if not hits:
            continue
        valid.append(query)
        first_hits.append(hits[0])
        ap.append(sum((found + 1) / rank for found, rank in enumerate(hits)) / len(hits))
        inp.append(len(hits) / hits[-1])
    cmc = [sum(hit <= k for hit in first_hits) / len(valid) for k in range(1, max_rank + 1)]
    return {"cmc": cmc, "mAP": sum(ap) / len(ap), "mINP": sum(inp) / len(inp), "ap": ap, "inp": inp, "valid": valid}


def reference_rerank(case: Case, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    """k-reciprocal re-ranking with Python sets and dense encodings."""
    features = torch.cat(case.features).double()
    features = (features / features.norm(dim=1, keepdim=True)).numpy()
    distances = (1 - features @ features.T).clip(min=0).round(12)
    squared = distances**2
    scaled = squared / squared.max(axis=1, keepdims=True)
    count, queries = len(features), len(case.query_features)
    order = [sorted(range(count), key=lambda j, i=i: (distances[i, j], j)) for i in range(count)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    half = {0: k1 // 2, 1: k1 // 2 + (k1 // 2) % 2}[k1 % 2]  # to the nearest, and to even from the middle
    encodings = np.zeros((count, count))
    for i in range(count):
        members = reciprocal(i, k1)
        widened = set(members)
        for j in members:
            narrow = reciprocal(j, half)
            if 3 * len(narrow & members) > 2 * len(narrow):
                widened |= narrow
        for j in widened:
            encodings[i, j] = np.exp(-scaled[i, j])
        encodings[i] /= encodings[i].sum()
    if k2 > 1:
        encodings = np.stack([encodings[order[i][:k2]].mean(axis=0) for i in range(count)])
    overlap = np.stack([np.minimum(encodings[i], encodings[queries:]).sum(axis=1) for i in range(queries)])
    return (1 - lambda_value) * (1 - overlap / (2 - overlap)) + lambda_value * scaled[:queries, queries:]
