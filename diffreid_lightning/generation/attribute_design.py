"""Deal attributes, noise seeds and reference images to the generated images, balanced and at random.

Everything here depends only on (run seed, identity, index): not on the other identities of a run, the number of images,
their order or the number of processes. More images of an identity continue the same design.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffreid_lightning.datasets.concat import IdentityKey

_ATTRIBUTES, _REFERENCES, _NOISE = "attributes", "references", "noise"  # independent random streams
_MEMORY = 1 << 26  # bytes per block of identities


def balanced_design(keys: Sequence[IdentityKey], count: int, sizes: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """Draw the attributes of the first ``count`` images of each identity.

    For each image in turn, an attribute takes the identity's least used value; among several, the one least often
    combined with the values of the attributes before it; ties are broken at random. So at every index the counts of an
    attribute's values differ by at most one, and pairs of values of two attributes are balanced as well.

    Args:
        keys: I identities.
        count: images of each.
        sizes: number of values of each of A attributes.
        seed: the run's.

    Returns:
        (I, count, A) values, from 0 to below the attribute's size.
    """
    pairs, rest = 4 * (len(sizes) * max(sizes)) ** 2, 8 * len(sizes) * (2 * max(sizes) + count)
    together = max(1, _MEMORY // (pairs + rest))
    blocks = [keys[start : start + together] for start in range(0, len(keys), together)]
    return np.concatenate([_design(block, count, sizes, seed) for block in blocks])


def _design(keys: Sequence[IdentityKey], count: int, sizes: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    people, attributes, most = len(keys), len(sizes), max(sizes)
    values = np.zeros((people, count, attributes), np.int64)
    had = np.zeros((people, attributes, most), np.int64)
    met = np.zeros((people, attributes, most, attributes, most), np.int32)  # pairs of an earlier and a later attribute
    generators = [_generator(_ATTRIBUTES, seed, key) for key in keys]
    everybody = np.arange(people)
    for index in range(count):
        ties = np.stack([generator.random((attributes, most)) for generator in generators])
        for attribute, size in enumerate(sizes):
            earlier = [(other, values[:, index, other]) for other in range(attribute)]
            together = ties[:, attribute, :size]
            for other, value in earlier:
                together = together + met[everybody, other, value, attribute, :size]
            seen = had[:, attribute, :size]
            chosen = np.where(seen > seen.min(axis=1, keepdims=True), np.inf, together).argmin(axis=1)
            values[:, index, attribute] = chosen
            had[everybody, attribute, chosen] += 1
            for other, value in earlier:
                met[everybody, other, value, attribute, chosen] += 1
    return values


def deal_references(key: IdentityKey, count: int, available: int, seed: int) -> npt.NDArray[np.int64]:
    """Assign an identity's ``available`` real images to its first ``count`` generated ones, evenly.

    Returns:
        (count,) numbers from 0 to below ``available``.
    """
    generator = _generator(_REFERENCES, seed, key)
    rounds = [generator.permutation(available) for _ in range(-(-count // available))]
    return np.concatenate(rounds)[:count]


def image_seed(key: IdentityKey, index: int, seed: int) -> int:
    """Return the seed of one image's noise: a whole number from 0 to below 2**63.

    Torch's generator takes its lower 32 bits: of 100,000 images, one pair is expected to begin with the same noise.
    """
    return int.from_bytes(_digest(_NOISE, seed, key, index)[:8], "big") >> 1


def _generator(stream: str, seed: int, key: IdentityKey) -> np.random.Generator:
    return np.random.default_rng(np.frombuffer(_digest(stream, seed, key), "<u4"))


def _digest(stream: str, seed: int, key: IdentityKey, *further: int) -> bytes:
    source, partition, pid = key
    return hashlib.sha256(json.dumps([stream, seed, source, partition, pid, *further]).encode()).digest()
