"""Load a personalized diffusion model from its folder, and write the tokens of one.

::

    identities.json                              base model, prompt template, the identities and their names
    tokens.safetensors                           their vectors: `tokens`, for SDXL also `tokens_2`
    lora/pytorch_lora_weights.safetensors        for `load_lora_weights`; or
    pipeline/                                    a whole pipeline, where more than a LoRA was trained
    student/pytorch_lora_weights.safetensors     of a few-step student, beside the other LoRA
    mapper.safetensors, mapper.json              from an image's features to a token, where one was trained
    provenance.json                              what it was trained on

Without this package::

    pipeline = AutoPipelineForText2Image.from_pretrained(base)
    pipeline.load_lora_weights("FOLDER/lora")
    with safe_open("FOLDER/tokens.safetensors", "pt") as file:
        names, tokens = json.loads(file.metadata()["names"]), file.get_tensor("tokens")
    pipeline.load_textual_inversion(tokens, token=names)

For SDXL the second text encoder's vectors are loaded as well; README.md has the lines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.lora_files import LORA_FILE, load_lora, locate_lora, stack_loras
from diffreid_lightning.diffusion.pipeline_io import Pipeline, load_pipeline
from diffreid_lightning.diffusion.prompt_encoding import text_encoders
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.paths import not_a_file, user_path
from diffreid_lightning.storage.atomic import describe_existing
from diffreid_lightning.storage.json_notes import mismatch, parse_json, read_json

IDENTITIES_FILE = "identities.json"
TOKENS_FILE = "tokens.safetensors"
LORA_FOLDER = "lora"
STUDENT_FOLDER = "student"
PIPELINE_FOLDER = "pipeline"
_REMEDY = "export the model again, or restore the file"
_NOTE = {
    "template": str,
    "base": {"model": str, "weights": str},
    "identities": [{"name": str, "source": str, "partition": str, "pid": int, "description": str}],
}
_TENSORS = ("tokens", "tokens_2")  # vectors for the first and the second text encoder


@dataclass(frozen=True)
class Identity:
    """Identity of a personalized model.

    Args:
        name: the identity's word in prompts (``<market1501-0002>``).
        key: (source, partition, pid).
        description: words that hold for all its images; may be "".
    """

    name: str
    key: IdentityKey
    description: str = ""

    @property
    def entry(self) -> dict[str, Any]:
        """Entry of ``identities.json``."""
        key = dict(zip(("source", "partition", "pid"), self.key, strict=True))
        return {**key, "name": self.name, "description": self.description}


@dataclass(frozen=True, eq=False)
class PersonalizedModel:
    """Pipeline with named identities.

    Args:
        pipeline: a diffusers pipeline; the names are words of its tokenizer.
        identities: in the order of their vectors; none of a plain checkpoint.
        template: prompt template of training.
        content_hash: SHA-256 of everything that determines the images, 64 hexadecimal digits.
        student: a few-step student, to be sampled by ``LCMScheduler`` without guidance.
    """

    pipeline: Pipeline
    identities: list[Identity]
    template: PromptTemplate
    content_hash: str
    student: bool


def is_personalized(folder: str | Path) -> bool:
    """Tell whether a path is a personalized model, not a plain checkpoint."""
    return (user_path(folder) / IDENTITIES_FILE).is_file()


def load_personalized(folder: str | Path, base: str | Path | None = None) -> PersonalizedModel:
    """Load a personalized model in float32.

    Args:
        folder: written by :class:`~diffreid_lightning.personalization.callbacks.PersonalizationExport`.
        base: its base model: a folder, a hub id or ``tiny-sd``; None takes the path noted in training.

    Raises:
        UserError: the folder is missing or incomplete, or the base model is not the one it was trained from.
    """
    folder = user_path(folder)
    noted = read_note(folder)
    whole = folder / PIPELINE_FOLDER
    if whole.is_dir():
        pipeline = load_pipeline(whole)
    else:
        source = locate_pipeline(base if base is not None else noted["base"]["model"])
        _check_base(folder, source, noted["base"]["weights"])
        pipeline = load_pipeline(source)
    lora = folder / LORA_FOLDER / LORA_FILE
    if lora.is_file():
        load_lora(pipeline, lora)
    names, tokens = read_tokens(folder)
    identities = [
        Identity(each["name"], (each["source"], each["partition"], each["pid"]), each["description"])
        for each in noted["identities"]
    ]
    if names != [identity.name for identity in identities]:
        raise _damaged(folder / TOKENS_FILE, f"the names of {IDENTITIES_FILE}", shorten(names, 4))
    add_tokens(pipeline, names, tokens)
    content_hash, student = hash_personalized(folder), folder / STUDENT_FOLDER
    if student.is_dir():
        content_hash = stack_loras(pipeline, [locate_lora(str(student))], content_hash)
    return PersonalizedModel(pipeline, identities, PromptTemplate(noted["template"]), content_hash, student.is_dir())


def hash_personalized(folder: Path) -> str:
    """Hash what determines the images of a personalized model, a student's LoRA left out.

    Args:
        folder: of a personalized model.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        UserError: the folder is incomplete.
    """
    noted, whole = read_note(folder), folder / PIPELINE_FOLDER
    digest = hashlib.sha256(json.dumps(noted["template"]).encode())
    digest.update((weights_hash(whole) if whole.is_dir() else noted["base"]["weights"]).encode())
    for file in (folder / LORA_FOLDER / LORA_FILE, folder / TOKENS_FILE):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_tokens(folder: Path, names: list[str], tokens: Iterable[Tensor]) -> None:
    """Write the identities' names and vectors.

    Args:
        folder: of a personalized model.
        names: N names.
        tokens: for each text encoder (N, dim) or (N, V, dim).
    """
    tensors = {name: vectors.contiguous() for name, vectors in zip(_TENSORS, tokens, strict=False)}
    # One metadata key: the order of several is random, and equal runs would not give equal bytes.
    save_file(tensors, folder / TOKENS_FILE, metadata={"names": json.dumps(names)})


def read_tokens(folder: Path) -> tuple[list[str], list[Tensor]]:
    """Read the identities' names and vectors.

    Args:
        folder: of a personalized model.

    Returns:
        names: N names.
        tokens: for each text encoder (N, dim) or (N, V, dim).

    Raises:
        UserError: the file is missing or damaged.
    """
    file = folder / TOKENS_FILE
    looked_for = f"the tensor {_TENSORS[0]}, and names in the metadata"
    if (found := not_a_file(file)) is not None:
        raise _damaged(file, looked_for, found)
    try:
        with safe_open(file, "pt") as opened:
            names = parse_json((opened.metadata() or {})["names"])
            tokens = [opened.get_tensor(name) for name in _TENSORS if name in opened.keys()]  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _damaged(file, looked_for, f"{type(error).__name__}: {error}") from error
    wrong = mismatch(names, [str], "names")
    if wrong is not None:
        raise _damaged(file, "a list of names", wrong)
    for vectors in tokens:
        if vectors.ndim not in (2, 3) or len(vectors) != len(names) or not vectors.isfinite().all():
            sound = f"finite vectors for {len(names)} names"
            raise _damaged(file, sound, f"{tuple(vectors.shape)} {str(vectors.dtype).removeprefix('torch.')}")
    return names, [vectors.float() for vectors in tokens]


def add_tokens(pipeline: Any, names: list[str], tokens: list[Tensor]) -> None:
    """Add tokens as ``pipeline.load_textual_inversion(tokens, token=names)`` does, for each text encoder.

    Diffusers adds names one by one and scans the vocabulary each time: minutes for ten thousand names.

    Args:
        pipeline: changed in place.
        names: N words.
        tokens: for each text encoder (N, dim) or (N, V, dim).

    Raises:
        UserError: a name is taken, or the vectors do not fit the pipeline.
    """
    encoders = text_encoders(pipeline)
    if len(encoders) != len(tokens):
        raise UserError(
            "The identities' vectors belong to another layout.",
            looked_for=f"vectors for {len(encoders)} text encoders",
            found=f"for {len(tokens)}",
            remedy="give the base model that they were trained with",
        )
    for (tokenizer, encoder), vectors in zip(encoders, tokens, strict=True):
        flat = vectors.reshape(len(names), -1, vectors.shape[-1])
        words = number_names(names, flat.shape[1])
        width = encoder.get_input_embeddings().weight.shape[1]
        if width != flat.shape[2]:
            raise UserError(
                "The identities' vectors do not fit the text encoder.",
                looked_for=f"vectors of {width} numbers",
                found=f"{flat.shape[2]}",
                remedy="give the base model that they were trained with",
            )
        first = add_words(tokenizer, words)
        encoder.resize_token_embeddings(first + len(words), mean_resizing=False)
        weight = encoder.get_input_embeddings().weight
        weight.data[first : first + len(words)] = flat.reshape(len(words), width).to(weight)


def add_words(tokenizer: Any, words: list[str]) -> int:
    """Add words to a tokenizer, with consecutive ids.

    Returns:
        The first id.

    Raises:
        UserError: a word is taken, or occurs twice.
    """
    first = len(tokenizer)
    taken = [word for word in words if tokenizer.convert_tokens_to_ids(word) not in (None, tokenizer.unk_token_id)]
    tokenizer.add_tokens(words)
    numbers = tokenizer.convert_tokens_to_ids(words)
    if taken or numbers != list(range(first, first + len(words))):
        raise UserError(
            "Names of identities cannot be added to the tokenizer.",
            looked_for="names that are new and differ from each other",
            found=shorten(taken or sorted({word for word in words if words.count(word) > 1}), 4),
            remedy="start from a base model without these names",
        )
    return first


def number_names(names: list[str], vectors: int) -> list[str]:
    """Return one word per vector of each name, in diffusers' form: ``<x>``, ``<x>_1``, ``<x>_2``, ..."""
    return [name if number == 0 else f"{name}_{number}" for name in names for number in range(vectors)]


def read_note(folder: Path) -> dict[str, Any]:
    """Read ``identities.json``: ``base``, ``template`` and ``identities``.

    Args:
        folder: of a personalized model.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = folder / IDENTITIES_FILE
    if not file.is_file():
        raise UserError(
            f"There is no personalized model at {folder}",
            looked_for=IDENTITIES_FILE,
            found=describe_existing(folder),
            remedy="make one: python -m diffreid_lightning fit --config stages/personalize",
        )
    return read_json(file, _NOTE, remedy=_REMEDY)


def _check_base(folder: Path, source: Path, wanted: str) -> None:
    found = weights_hash(source)
    if found != wanted:
        raise UserError(
            f"The personalized model at {folder} was trained from another base model.",
            looked_for=f"weights with the hash {wanted[:16]}…",
            found=f"{found[:16]}… at {source}",
            remedy="give the base model it was trained from as base",
        )


def _damaged(file: Path, looked_for: str, found: str) -> UserError:
    return UserError(
        f"A file of a personalized model cannot be used: {file}",
        looked_for=looked_for,
        found=found,
        remedy=_REMEDY,
    )
