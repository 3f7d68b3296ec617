"""Leaks: whether a dataset, or a network, was made from training rows of its own subset and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffreid_lightning.backbones.timm_folder import PROVENANCE_FILE
from diffreid_lightning.errors import RunError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import find_manifest_hashes, read_provenance

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
    trained_on = [
        parent for note in notes for parent in find_manifest_hashes(json.loads(note.read_text(encoding="utf-8")))
    ]
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


class Training(NamedTuple):
    """Inputs that a training is allowed to have.

    Args:
        backbone: folder of the weights that it came to.
        shown: content hashes of all that it may have been shown: the subset's dataset (training reads its training rows
            alone), or what was generated from it.
        start: what it must have started from: the folder of other weights, their name, or None for random ones.
    """

    backbone: Path
    shown: Collection[str]
    start: Path | str | None


def refuse_strange_training(trainings: Iterable[Training]) -> None:
    """Look up which manifests trained backbones were shown, and what they started from.

    Raises:
        RunError: a backbone names another manifest, or none, or another start.
    """
    for backbone, allowed, start in trainings:
        note = read_provenance(backbone / PROVENANCE_FILE).get("training", {})
        shown, init_from = set(find_manifest_hashes(note)), note.get("init_from")
        if not shown or not shown <= set(allowed):
            raise RunError(
                f"A network was trained on something that its row may not see: {backbone}",
                looked_for=", ".join(sorted(allowed)),
                found=", ".join(sorted(shown)) or "no manifest is named",
            )
        if isinstance(start, Path):  # the work folder may have been moved since: a step's own folder tells which it is
            as_expected = init_from is not None and Path(init_from).parts[-3:] == start.parts[-3:]
        else:
            as_expected = "init_from" in note and init_from == start
        if not as_expected:
            raise RunError(
                f"A network did not start where its row does: {backbone}",
                looked_for=str(start or "random weights"),
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
