"""Locate a Stable Diffusion checkpoint (a folder, the hub, or this package), and hash its weights."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffusers import DiffusionPipeline

from diffreid_lightning.diffusion.checkpoint_parts import INDEX, NETWORKS, TOKENIZERS, find_weights
from diffreid_lightning.diffusion.single_file import configs_of, refuse_pickle
from diffreid_lightning.errors import UserError, first_line, nearest
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import describe_backup, describe_existing
from diffreid_lightning.storage.content_hash import add_content
from diffreid_lightning.storage.hub import hub_file, is_hub_id

TINY_SD = "tiny-sd"
#: configuration entries that change when a checkpoint is only saved again
_WRITERS_NOTES = ("_diffusers_version", "transformers_version", "_name_or_path", "name_or_path")


def locate_pipeline(model: str | Path) -> Path:
    """Find a checkpoint in diffusers' layout; download a hub checkpoint that is not cached.

    Args:
        model: a folder, a hub id (``owner/name``, optionally ``@revision``), or ``tiny-sd``, which ships with the
            package; or a single file in the original layout, as
            :mod:`~diffreid_lightning.diffusion.single_file` reads it. A local folder of that name has priority.

    Returns:
        The folder, with a ``model_index.json``, or the file.

    Raises:
        UserError: there is none.
    """
    folder = user_path(model)
    if not folder.exists():
        if str(model) == TINY_SD:
            folder = Path(__file__).parent / "tiny_sd"
        elif isinstance(model, str) and is_hub_id(model) and describe_backup(folder) is None:
            return _from_hub(model)
    if folder.is_file():
        refuse_pickle(folder)
        return folder
    if not (folder / INDEX).is_file():
        guess = nearest(str(model), [TINY_SD])
        raise UserError(
            f"There is no diffusion model at {model}",
            looked_for=f"a diffusers folder with {INDEX}",
            found=describe_existing(folder),
            remedy="give the folder of a Stable Diffusion checkpoint in diffusers' layout, its one .safetensors file, "
            "a hub id (owner/name), or " + (f"did you mean {guess!r}?" if guess and guess != str(model) else TINY_SD),
        )
    return folder


def weights_hash(folder: Path) -> str:
    """Hash the loaded files of a checkpoint: weights, configurations, tokenizers; SHA-256, 64 hexadecimal digits.

    The noise schedule is part of it, since it changes the images; the versions of the libraries that wrote the
    configurations are not.

    Args:
        folder: from :func:`locate_pipeline`; of a single file, its bytes and configurations are hashed.

    Raises:
        UserError: the list of shards, or the single file, is damaged.
    """
    if folder.is_file():
        with configs_of(folder) as configs:
            settings = _hash(configs, _setting_files(configs))
        return hashlib.sha256((settings + _hash(folder.parent, [folder], named=False)).encode()).hexdigest()
    return _hash(folder, (*_setting_files(folder), *_weight_files(folder)))


def _hash(root: Path, files: Iterable[Path], named: bool = True) -> str:
    stats = [(file, file.stat()) for file in files]
    return _hash_cached(root, named, tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@functools.lru_cache(maxsize=64)
def _hash_cached(root: Path, named: bool, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files, cached by their sizes and modification times."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        if named:
            digest.update(file.relative_to(root).as_posix().encode())
        if file.suffix == ".json":
            digest.update(_settings(file.read_bytes()))
            continue
        add_content(digest, file)
    return digest.hexdigest()


def _settings(content: bytes) -> bytes:
    """Normalize a JSON file, without its writer's version notes; a damaged one stays as it is."""
    try:
        read = json.loads(content)
    except ValueError:
        return content
    if isinstance(read, dict):
        read = {name: value for name, value in read.items() if name not in _WRITERS_NOTES}
    return json.dumps(read, sort_keys=True).encode()


def _setting_files(folder: Path) -> Iterator[Path]:
    configs = (folder / part / "config.json" for part in NETWORKS)
    named = (folder / INDEX, *configs, folder / "scheduler" / "scheduler_config.json")
    yield from (file for file in named if file.is_file())
    for part in TOKENIZERS:
        yield from (file for file in sorted((folder / part).glob("*")) if file.suffix in (".json", ".txt"))


def _weight_files(folder: Path) -> Iterator[Path]:
    for part in NETWORKS:
        if (found := find_weights(folder / part)) is not None:
            yield from found.files


def _from_hub(model: str) -> Path:
    remedy = (
        f"there is no folder {model} here either: give the folder of a local copy in diffusers' layout, "
        "or fetch the model once where there is a network"
    )
    hub_file(model, INDEX, remedy=remedy)  # without a network this fails fast, with the reason
    name, _, revision = model.partition("@")
    try:
        return Path(
            DiffusionPipeline.download(
                name, revision=revision or None, use_safetensors=True, safety_checker=None, feature_extractor=None
            )
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"The diffusion model {model} cannot be downloaded from the hub.",
            looked_for=f"{model}, in the cache or on the hub, with weights in safetensors",
            found=first_line(error),
            remedy=remedy,
        ) from error
