"""Add identities to a personalized model without training.

See ``python -m diffreid_lightning.personalization.add_identities --help``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.identities import describe_people, identity_names, rows_of_identities
from diffreid_lightning.diffusion.pipeline_io import PROVENANCE, replace_model_folder
from diffreid_lightning.errors import DiffReIDError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import read_provenance
from diffreid_lightning.paths import user_path
from diffreid_lightning.personalization.checkpoint import (
    IDENTITIES_FILE,
    TOKENS_FILE,
    Identity,
    read_note,
    read_tokens,
    write_tokens,
)
from diffreid_lightning.personalization.identity_features import IdentityFeatures
from diffreid_lightning.personalization.token_mapper import load_mapper
from diffreid_lightning.storage.atomic import refuse_foreign
from diffreid_lightning.storage.json_notes import write_json


def add_identities(folder: Path, rows: Manifest, out: Path) -> list[str]:
    """Write a personalized model with further identities, whose vectors its trained mapper computes.

    Nothing is trained; existing identities keep their names and vectors.

    Args:
        folder: a model personalized with :class:`~diffreid_lightning.personalization.identity_tokens.MappedTokens`.
        rows: images of the new identities.
        out: folder of the new model; its content is replaced.

    Returns:
        Names of the new identities.

    Raises:
        UserError: there is no such model or it has no mapper, its features cannot be computed here, no identity is new,
            or one of ``out`` and the model's folder contains the other.
        RunError: the disk is full.
    """
    _refuse_nested(folder, out)
    marks = [IDENTITIES_FILE, TOKENS_FILE]
    refuse_foreign(out, marks, "a personalized model", "give another folder as --out, or remove this one yourself")
    people = read_note(folder)
    names, tokens = read_tokens(folder)
    mapper, noted = load_mapper(folder)
    known = {(each["source"], each["partition"], each["pid"]) for each in people["identities"]}
    labels, keys = rows.identities()
    rows = rows.filter(np.isin(labels, [place for place, key in enumerate(keys) if key not in known]))
    _, keys = rows.identities()
    if not keys:
        raise UserError(
            "The model already has all identities of these images.", found=f"{len(known)} identities in {folder}"
        )
    features = _features(noted, folder)
    features.encode(rows)
    with torch.no_grad():
        vectors = mapper(features.of_identities(rows))
    added = identity_names([*known, *keys])[len(known) :]
    extended = [torch.cat([old, new.reshape(-1, *old.shape[1:])]) for old, new in zip(tokens, vectors, strict=True)]
    provenance = read_provenance(folder / PROVENANCE)
    shown = {"manifest": rows.content_hash, "identities": len(keys)}
    provenance["newcomers"] = [*provenance.get("newcomers", []), shown]
    people["identities"] += [
        Identity(name, key, description).entry
        for name, key, description in zip(added, keys, describe_people(rows), strict=True)
    ]
    with replace_model_folder(out, provenance) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        write_tokens(target, [*names, *added], extended)
        write_json(target / IDENTITIES_FILE, people, ensure_ascii=False)
    return added


def _refuse_nested(folder: Path, out: Path) -> None:
    """Refuse an output that contains the model's folder or lies in it: it would be copied into itself, or deleted."""
    here, there = folder.resolve(), out.resolve()
    if here in there.parents or there in here.parents:
        raise UserError(
            f"One of --out and the model's folder contains the other: {out}",
            looked_for=f"a folder outside {folder}",
            remedy="give another folder as --out",
        )


def _features(noted: dict[str, object], folder: Path) -> IdentityFeatures:
    settings = {name: value for name, value in noted.items() if name != "weights"}
    features = IdentityFeatures(**settings)  # type: ignore[arg-type]
    if features.settings["weights"] != noted["weights"]:
        raise UserError(
            f"The mapper of {folder} was trained on the features of another network.",
            looked_for=f"{noted['backbone']} with weights {str(noted['weights'])[:16]}…",
            found=f"{noted['init_from']}: {features.settings['weights'][:16]}…",
            remedy="restore the weights it was trained with",
        )
    return features


def main(args: list[str] | None = None) -> int:
    """Write a personalized model with further identities."""
    parser = argparse.ArgumentParser(
        description="Add identities to a model personalized with MappedTokens, without training."
    )
    parser.add_argument("model", type=Path, help="folder of the personalized model")
    parser.add_argument("source", help="images of the new identities: a dataset, a manifest, or miniperson")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new model")
    parser.add_argument("--split", default="train", help="split of the images (default: train)")
    given = parser.parse_args(args)
    try:
        rows = rows_of_identities(open_dataset(given.source).manifest(), given.split)
        names = add_identities(user_path(given.model), rows, user_path(given.out))
    except DiffReIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(names)} new identities, {names[0]} to {names[-1]}: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
