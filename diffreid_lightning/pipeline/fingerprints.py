"""Hash the inputs and outputs of a stage, to decide if it must run again.

A stage's key covers its command, its configs, the vocabularies, files and folders of weights that they name by path,
the chain's variables it reads, the code of the classes its configs name, the user's own too, with all that they import
(without docstrings and comments), the datasets and diffusion models it reads and the outputs of the stages it reads.
Of a dataset's images it holds sizes and times, or an archive's checksums, for reading them all would take too long; of
the rest, the content. It holds no absolute paths of the machine, but for files that are named by them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffreid_lightning.config_files import load_layers, plain_value, split_config_flags, texts
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.errors import UserError
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.paths import user_path
from diffreid_lightning.pipeline import code_closure
from diffreid_lightning.pipeline.graph import PREFIX, Chain, Stage
from diffreid_lightning.storage.content_hash import add_content
from diffreid_lightning.storage.json_notes import mappings_in, read_sound_json, replace_json

RECORDS = ".stages"
_COMMAND_MODULES = {"select": ("diffreid_lightning.cli.commands.select",)}
_LIGHTNING_MODULES = ("diffreid_lightning.cli.lightning_cli",)


@dataclass(frozen=True)
class Record:
    """Record of a finished stage.

    Args:
        key: hash of all it was made from.
        output: hash of all it made.
        seconds: how long it took, in all its attempts.
        ancestors: output hash of every stage it goes back to, by name.
    """

    key: str
    output: str
    seconds: float
    ancestors: dict[str, str] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write the record atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_json(file, asdict(self), sort_keys=False)

    @classmethod
    def read(cls, file: Path) -> Record | None:
        """Read a record; None if it is missing or damaged."""
        form = {"key": str, "output": str, "seconds": float, "ancestors": {str: str}}
        note = read_sound_json(file, form)
        return None if note is None else cls(**{name: note[name] for name in form})


def record_file(root: Path, name: str) -> Path:
    """Return the file that records a finished stage."""
    return root / RECORDS / f"{name}.json"


def begun_file(root: Path, name: str) -> Path:
    """Return the file that records a running stage."""
    return root / RECORDS / f"{name}.begun.json"


def stage_key(chain: Chain, stage: Stage, outputs: Mapping[str, str]) -> str:
    """Hash the inputs of a stage.

    Args:
        chain: the chain it belongs to.
        stage: the stage.
        outputs: output hash of every stage it reads, by name.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: a config, a dataset or a diffusion model cannot be read.
    """
    names, _ = split_config_flags(stage.words)
    configs = load_layers(stage.words[0], names)
    data, models, variables = _variables_read(chain, stage, configs)
    made_from = {
        "command": stage.words,
        "configs": configs,
        "vocabularies": vocabulary_hashes([*configs, variables], stage.words),
        "variables": {name: _content_of(value) for name, value in variables.items()},
        "code": code_hash(stage.words, configs),
        "files": named_files([chain.root / each.name for each in chain.stages], stage.words, configs),
        "data": {name: dataset_hash(path) for name, path in data.items()},
        "models": {name: model_hash(path) for name, path in models.items()},
        "reads": {name: outputs[name] for name in stage.reads},
    }
    return _hash_json(made_from)


def output_hash(folder: Path, makes: Iterable[str]) -> str | None:
    """Hash the outputs of a stage; None if one is missing.

    Args:
        folder: the stage's folder.
        makes: files, or folders with all that is in them, inside it.
    """
    digest = hashlib.sha256()
    for name in makes:
        path = folder / name
        if not path.exists():
            return None
        files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
        for file in files:
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file_hash(file).encode())
    return digest.hexdigest()


def forget_hashes() -> None:
    """Clear the cached hashes of datasets and models."""
    for remembered in (dataset_hash, model_hash):
        remembered.cache_clear()


def code_hash(words: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> str:
    """Hash the code that a command runs: its own, and that of the classes its words and configs name."""
    named = [*texts(configs), *re.split(r"[^\w.]+", " ".join(words))]
    own = code_closure.own_code(named)
    packaged = code_closure.code_hash(named, _COMMAND_MODULES.get(words[0], _LIGHTNING_MODULES))
    return _hash_json([packaged, own]) if own else packaged


def named_files(made: Sequence[Path], words: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Hash the files and folders of weights that a command's words and configs name by path.

    Args:
        made: folders of the outputs of other commands, which are left out.
        words: the command.
        configs: its configs.

    Returns:
        Hash of the content by path as it is written.
    """
    _, rest = split_config_flags(words)
    values = [word.partition("=")[2] if word.startswith("--") else word for word in rest[1:]]
    values = [plain_value(value) if value.startswith(("[", "{")) else value for value in values]
    found = {}
    for text in sorted({*texts(values), *texts(configs)}):
        files = _files_at(text, made)
        if files:
            found[text] = _hash_json([[file.name, _hash_once(file)] for file in sorted(files)])
    return found


def _files_at(text: str, made: Sequence[Path]) -> list[Path]:
    if not text or "${" in text:
        return []
    try:
        path = user_path(text.removeprefix("local-dir:"))
    except UserError:  # no path
        return []
    try:
        if any(path.resolve().is_relative_to(folder.resolve()) for folder in made):
            return []
        if path.is_file():
            return [path]
        weights = list(path.glob("*.safetensors")) if path.is_dir() else []
        return [*weights, *path.glob("*.json")] if weights else []
    except OSError:  # of another person; the command says so, if it reads it
        return []


def _hash_once(file: Path) -> str:
    status = file.stat()
    return _hash_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _hash_of(file: Path, size: int, modified: int) -> str:
    """Hash a file; ``size`` and ``modified`` tell it from an earlier version of itself."""
    return file_hash(file)


def vocabulary_hashes(settings: Iterable[Mapping[str, Any]], words: Sequence[str]) -> list[str]:
    """Hash the vocabularies that a command reads, the user's own or packaged.

    Args:
        settings: its configs.
        words: its words, which may name one too.
    """
    given = (each.get("vocabulary") for each in mappings_in(list(settings)))  # lists in it, too: a chain's are some
    named = [name for name in given if isinstance(name, str)]
    for word, following in zip(words, (*words[1:], ""), strict=True):
        flag, _, value = word.partition("=")
        if flag.startswith("--") and flag.rpartition(".")[2] == "vocabulary":
            named.append(value or following)
    packaged = configs_folder() / "vocabulary"
    files = (own if (own := user_path(name)).is_file() else packaged / f"{name}.yaml" for name in named)
    return [file_hash(file) for file in files if file.is_file()]


def hash_ahead(chain: Chain, stages: Iterable[Stage]) -> None:
    """Hash the datasets and models of stages that run later; the hashes are kept for them.

    What cannot be read is left for them to report.
    """
    for stage in stages:
        with contextlib.suppress(UserError):
            for name in stage.data:
                dataset_hash(chain.variables[name])
            for name in stage.models:
                model_hash(chain.variables[name])


@functools.cache
def dataset_hash(path: str) -> str:
    """Hash a dataset: its manifest's rows, and the sizes and times (or checksums) of its image files.

    Raises:
        UserError: there is no dataset at ``path``.
    """
    manifest = open_dataset(path).manifest()
    return _hash_json([manifest.content_hash, manifest.file_fingerprint])


@functools.cache
def model_hash(model: str) -> str:
    """Hash a diffusion model: its weights.

    Raises:
        UserError: there is no model at ``model``.
    """
    # Import late: diffusers takes seconds to import, and not every chain has such a model.
    from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash

    return weights_hash(locate_pipeline(model))


def _variables_read(chain: Chain, stage: Stage, configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the datasets, models and other variables (not the root) that a stage lists, or its configs or words name.

    A variable holds a dataset or a model where any stage lists it as such.
    """
    text = json.dumps([configs, stage.words], default=str)
    mentioned = {name for name in chain.variables if re.search(rf"\b{PREFIX}{name.upper()}\b", text)}
    data = {name for each in chain.stages for name in each.data}
    models = {name for each in chain.stages for name in each.models}
    read = (
        {*stage.data, *(data & mentioned)},
        {*stage.models, *(models & mentioned)},
        mentioned - data - models - {"root"},
    )
    return [{name: chain.variables[name] for name in names} for names in read]


def _content_of(value: str) -> str:
    """Return a variable's value, or the hash of the file that it names, such as a list of training images."""
    try:
        file = user_path(value)
    except UserError:  # no path
        return value
    return file_hash(file) if file.is_file() else value


def file_hash(file: Path) -> str:
    """Hash the content of a file.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        add_content(digest, file)
    except OSError as error:
        raise UserError(f"{file} cannot be read.", found=str(error), remedy="check its permissions") from error
    return digest.hexdigest()


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
