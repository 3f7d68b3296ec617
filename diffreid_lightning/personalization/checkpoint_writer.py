"""Write a personalized diffusion model; :mod:`diffreid_lightning.personalization.checkpoint` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from diffreid_lightning.diffusion.pipeline_io import PROVENANCE
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import translate_disk_errors
from diffreid_lightning.personalization.checkpoint import IDENTITIES_FILE, TENSORS, TOKENS_FILE, Identity
from diffreid_lightning.personalization.fine_tuning import FineTuning
from diffreid_lightning.personalization.identity_tokens import IdentityTokens
from diffreid_lightning.storage.atomic import replace_folder
from diffreid_lightning.storage.json_notes import write_json


def write_personalized(
    folder: Path,
    pipeline: Any,
    fine_tuning: FineTuning,
    tokens: IdentityTokens,
    identities: Sequence[Identity],
    template: PromptTemplate,
    base: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> None:
    """Write a personalized model's folder, whole or not at all.

    Args:
        folder: output folder; its content is replaced.
        pipeline: the trained networks, with the tokenizers of the base model.
        fine_tuning: saves the trained weights.
        tokens: the identities' vectors.
        identities: in the same order.
        template: prompt template of training.
        base: ``model`` and hash of the ``weights`` of the base model.
        provenance: content of ``provenance.json``.

    Raises:
        RunError: the disk is full.
    """
    people = [
        dict(zip(("source", "partition", "pid"), each.key, strict=True))
        | {"name": each.name, "description": each.description}
        for each in identities
    ]
    note = {"base": dict(base), "template": template.text, "identities": people}
    names = json.dumps([each.name for each in identities])
    with translate_disk_errors(f"{folder} cannot be written.", "free disk space"), replace_folder(folder) as target:
        fine_tuning.save(pipeline, target, provenance)
        tables = dict(zip(TENSORS, tokens.table(), strict=False))
        # One metadata key: the order of several is random, and equal runs would not give equal bytes.
        save_file(tables, target / TOKENS_FILE, metadata={"names": names})
        tokens.save(target)
        for name, content in ((IDENTITIES_FILE, note), (PROVENANCE, provenance)):
            write_json(target / name, content, ensure_ascii=False)
