"""Tokens for people a model was never trained on: ``python -m diffreid_lightning.diffusion.newcomers --help``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from diffreid_lightning.data.datasets import open_dataset
from diffreid_lightning.diffusion.identity_features import IdentityFeatures
from diffreid_lightning.diffusion.identity_tokens import identity_names
from diffreid_lightning.diffusion.personalised import IDENTITIES_FILE, TENSORS, TOKENS_FILE, read_tokens
from diffreid_lightning.diffusion.token_mapper import load_mapper
from diffreid_lightning.errors import DiffReIDError, RunError, UserError
from diffreid_lightning.manifest import Manifest
from diffreid_lightning.whole_folder import replacing


def introduce(folder: Path, rows: Manifest, out: Path) -> list[str]:
    """Write a personalised model that also knows the identities of these images, by the mapper it was trained with.

    Nothing is trained; whom the model knows already keeps name and vectors.

    Args:
        folder: a model personalised with :class:`~diffreid_lightning.diffusion.identity_tokens.MappedTokens`.
        rows: images of the newcomers.
        out: where the new model is written; what is there is replaced.

    Returns:
        The newcomers' names.

    Raises:
        UserError: the model has no mapper, or its features cannot be made again here.
        RunError: the disk is full.
    """
    names, tokens = read_tokens(folder)
    mapper, noted = load_mapper(folder)
    people = json.loads((folder / IDENTITIES_FILE).read_text(encoding="utf-8"))
    known = {(each["source"], each["partition"], each["pid"]) for each in people["identities"]}
    labels, keys = rows.identities()
    rows = rows.filter(np.isin(labels, [place for place, key in enumerate(keys) if key not in known]))
    _, keys = rows.identities()
    if not keys:
        raise UserError("The model knows everybody in these images.", found=f"{len(known)} identities in {folder}")
    features = _features(noted, folder)
    features.encode(rows)
    with torch.no_grad():
        vectors = mapper(features.of_identities(rows))
    added = identity_names([*known, *keys])[len(known) :]
    extended = [torch.cat([old, new.reshape(-1, *old.shape[1:])]) for old, new in zip(tokens, vectors, strict=True)]
    people["identities"] += [
        {"name": name, "source": key[0], "partition": key[1], "pid": key[2], "description": description}
        for name, key, description in zip(added, keys, _descriptions(rows), strict=True)
    ]
    try:
        with replacing(out) as target:
            shutil.copytree(folder, target, dirs_exist_ok=True)
            tables = {name: table.contiguous() for name, table in zip(TENSORS, extended, strict=False)}
            save_file(tables, target / TOKENS_FILE, metadata={"names": json.dumps([*names, *added])})
            text = json.dumps(people, indent=2, sort_keys=True, ensure_ascii=False)
            (target / IDENTITIES_FILE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out} cannot be written.", found=str(error), remedy="free disk space") from error
    return added


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


def _descriptions(rows: Manifest) -> list[str]:
    """Description of each identity, in the order of ``rows.identities()``; "" where there is none."""
    if "description" not in rows.columns:
        return [""] * len(rows.identities()[1])
    _, first = np.unique(rows.identities()[0], return_index=True)
    return [rows.table["description"][row].as_py() or "" for row in first.tolist()]


def main(args: list[str] | None = None) -> int:
    """Write a personalised model that knows further people."""
    parser = argparse.ArgumentParser(
        description="Give names and tokens to people a model was never trained on, by the mapper of MappedTokens."
    )
    parser.add_argument("model", type=Path, help="folder of the personalised model")
    parser.add_argument("source", help="their images: a dataset, a manifest, or miniperson")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new model")
    parser.add_argument("--split", default="train", help="the rows that are read (default: train)")
    given = parser.parse_args(args)
    try:
        manifest = open_dataset(given.source).manifest()
        chosen = (manifest.numpy("split") == given.split) & (manifest.numpy("role") == "identity")
        names = introduce(given.model.expanduser(), manifest.filter(np.asarray(chosen, dtype=bool)), given.out)
    except DiffReIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(names)} newcomers, {names[0]} to {names[-1]}: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
