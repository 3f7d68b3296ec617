"""Leaks: whether a dataset, or a network, was made from training rows of its own subset and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from diffreid_lightning.errors import RunError
from diffreid_lightning.manifest import Manifest
from diffreid_lightning.nets.folder import PROVENANCE_FILE
from diffreid_lightning.provenance import manifests_named, read_provenance

Image = tuple[str, str, int, str]


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
    rows = _images(allowed)
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
        _refuse_strangers(made, known[digest], rows)
        queue += [parent for parent in known[digest].parents if parent != allowed.content_hash]


def refuse_strange_training(backbones: Sequence[Path], allowed: Collection[str], by_name: Collection[str]) -> None:
    """Look up which manifests trained backbones were shown, and what they started from.

    Args:
        backbones: folders of their weights, each the start of the one before it.
        allowed: content hashes of what they may have been shown: the subset's dataset (training reads its training rows
            alone) and what was generated from it.
        by_name: names of weights that the last may have started from.

    Raises:
        RunError: a backbone names another manifest, or none, or started from something else.
    """
    for backbone, start in zip(backbones, (*backbones[1:], None), strict=True):
        note = read_provenance(backbone / PROVENANCE_FILE).get("training", {})
        shown, init_from = set(manifests_named(note)), note.get("init_from")
        if not shown or not shown <= set(allowed):
            raise RunError(
                f"A network was trained on something that its row may not see: {backbone}",
                looked_for=", ".join(sorted(allowed)),
                found=", ".join(sorted(shown)) or "no manifest is named",
            )
        if start is None:
            as_expected = init_from is None or init_from in by_name
        else:  # the work folder may have been moved since: a step's own folder tells which it is
            as_expected = init_from is not None and Path(init_from).parts[-3:] == start.parts[-3:]
        if not as_expected:
            raise RunError(
                f"A network did not start where its row does: {backbone}",
                looked_for=str(start or f"random weights, or {', '.join(by_name)}"),
                found=str(init_from),
            )


def _refuse_strangers(made: Path, ancestor: Manifest, rows: set[Image]) -> None:
    real = ancestor.filter(np.asarray(ancestor.numpy("split") != "generated", dtype=bool))
    strange = sorted(_images(real) - rows)
    if strange:
        raise RunError(
            f"{made} was made from images that its subset does not have.",
            found=f"{len(strange)} in {ancestor.root}, such as {strange[0]}",
        )


def _images(manifest: Manifest) -> set[Image]:
    """Each image with whose it is: two sources may use one file name."""
    columns = (manifest.table[name].to_pylist() for name in ("source", "partition", "pid", "file_name"))
    return set(zip(*columns, strict=True))
