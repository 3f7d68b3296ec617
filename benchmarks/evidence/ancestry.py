"""Leaks: whether everything that a dataset was made from is training rows of its own subset."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from diffreid_lightning.errors import RunError
from diffreid_lightning.manifest import Manifest
from diffreid_lightning.provenance import manifests_named


def refuse_leaks(
    made: Path, stages: Sequence[Path], notes: Sequence[Path], allowed: Manifest, given: Collection[str] = ()
) -> None:
    """Follow a dataset's ancestors, and those of the networks that took part, back to real images.

    Args:
        made: a manifest's folder.
        stages: folders of every manifest that may be among its ancestors.
        notes: what the networks noted of their training: JSON files that name manifests under ``manifest``.
        allowed: the training rows of the subset.
        given: content hashes of what the base model was trained on before, which every row has alike.

    Raises:
        RunError: an ancestor is none of ``stages``, or has a real image that is not allowed, or a network was trained
            on something else.
    """
    known = {manifest.content_hash: manifest for manifest in map(Manifest.read, stages)}
    names = set(allowed.table["file_name"].to_pylist())
    trained_on = [parent for note in notes for parent in manifests_named(json.loads(note.read_text(encoding="utf-8")))]
    if len(trained_on) < len(notes):
        raise RunError(f"A network in {made} does not say what it was trained on.", found=", ".join(map(str, notes)))
    queue, seen = [*Manifest.read(made).parents, *trained_on], set()
    if not queue:
        raise RunError(f"{made} names no ancestors.", looked_for="the manifests it was made from")
    while queue:
        digest = queue.pop()
        if digest in seen or digest in given:
            continue
        seen.add(digest)
        if digest not in known:
            raise RunError(f"An ancestor of {made} is unknown.", found=digest, looked_for=", ".join(map(str, stages)))
        _refuse_strangers(made, known[digest], names)
        queue += [parent for parent in known[digest].parents if parent != allowed.content_hash]


def _refuse_strangers(made: Path, ancestor: Manifest, names: set[str]) -> None:
    real = ancestor.filter(np.asarray(ancestor.numpy("split") != "generated", dtype=bool))
    strange = sorted(set(real.table["file_name"].to_pylist()) - names)
    if strange:
        raise RunError(
            f"{made} was made from images that its subset does not have.",
            found=f"{len(strange)} in {ancestor.root}, such as {strange[0]}",
        )
