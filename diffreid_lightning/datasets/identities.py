"""Name, choose and describe identities."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.errors import UserError, did_you_mean, nearest, shorten
from diffreid_lightning.manifest.manifest import Manifest


def identity_name(key: IdentityKey) -> str:
    """Name an identity in prompts: ``<market1501-0002>``, ``<market1501-test-0002>`` outside the train partition.

    The brackets ensure that no name is a prefix of another.

    Args:
        key: (source, partition, pid).
    """
    source, partition, pid = key
    words = [source] if partition == "train" else [source, partition]
    plain = [re.sub(r"[^a-z0-9._-]+", "-", word.lower()) for word in words]
    return f"<{'-'.join([*plain, f'{pid:04d}'])}>"


def identity_names(keys: Sequence[IdentityKey]) -> list[str]:
    """Name identities.

    Raises:
        UserError: two of them have the same name.
    """
    names: dict[str, IdentityKey] = {}
    for key in keys:
        other = names.setdefault(identity_name(key), key)
        if other != key:
            raise UserError(
                f"Two identities have the same name {identity_name(key)}.",
                found=f"{other} and {key}",
                remedy="rename one of the sources",
            )
    return list(names)


def rows_of_identities(manifest: Manifest, split: str) -> Manifest:
    """Select the rows of identities in a split.

    Raises:
        UserError: there are none.
    """
    chosen = (manifest.numpy("split") == split) & (manifest.numpy("role") == "identity")
    if not chosen.any():
        splits = sorted(set(manifest.numpy("split").tolist()) - {split})
        raise UserError(
            f"There is no image of an identity in the split {split!r}.",
            looked_for=f"rows with split {split!r} and role 'identity' in {manifest.root}",
            found=f"{len(manifest)} rows, of other splits ({', '.join(splits)}) or roles",
            remedy=did_you_mean(split, splits, "see what is there with: python -m diffreid_lightning data check PATH"),
        )
    return manifest.filter(np.asarray(chosen, dtype=bool))


def choose_people(
    keys: Sequence[IdentityKey],
    asked: int | Sequence[str] | None,
    where: str,
    elsewhere: Sequence[IdentityKey] = (),
) -> list[int]:
    """Choose the identities of ``data.identities``.

    Args:
        keys: I identities, at least one.
        asked: a number (the first N), names with or without brackets, or None for all.
        where: description of the images that count, for messages.
        elsewhere: identities with other images only.

    Returns:
        Indices into ``keys``, in order or in the order of the names; each once.

    Raises:
        UserError: the number is out of range, a name is unknown, or the list is empty.
    """
    if asked is None:
        return list(range(len(keys)))
    if isinstance(asked, int):
        if not 1 <= asked <= len(keys):
            raise UserError(
                f"data.identities is {asked}.",
                looked_for=f"a number from 1 to {len(keys)}, names, or null for all",
                found=f"{len(keys)} identities with {where}",
            )
        return list(range(asked))
    places = {name: place for place, name in enumerate(identity_names(keys))}
    wanted = list(dict.fromkeys(f"<{name.strip('<>')}>" for name in asked))
    missing = [name for name in wanted if name not in places]
    if not wanted:
        raise UserError("data.identities is an empty list.", looked_for="names, a number, or null for all")
    if missing:
        others = set(map(identity_name, elsewhere))
        guess = nearest(missing[0], places)
        raise UserError(
            f"There is no image of {shorten(missing)} to use.",
            looked_for=where,
            found="other images only"
            if others.issuperset(missing)
            else f"{len(places)} identities, such as {shorten(places, 3)}",
            remedy=f"did you mean {guess}?" if guess else "give other identities in data.identities",
        )
    return [places[name] for name in wanted]


def describe_people(rows: Manifest) -> list[str]:
    """Return each identity's first description, in the order of ``rows.identities()``; "" if there is none."""
    labels, keys = rows.identities()
    found = [""] * len(keys)
    if "description" in rows.columns:
        for label, description in zip(labels.tolist(), rows.table["description"].to_pylist(), strict=True):
            found[label] = found[label] or description or ""
    return found
