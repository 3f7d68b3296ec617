"""Recognize and check the folders that are shared: a backbone, a personalized model, Diff-Person."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from diffreid_lightning.backbones.timm_folder import CONFIG_FILE, WEIGHTS_FILE, read_timm_folder
from diffreid_lightning.backbones.weight_sources import EXPORTED
from diffreid_lightning.datasets.diff_person import NOTE, DiffPerson
from diffreid_lightning.errors import UserError, first_line, shorten
from diffreid_lightning.filtering.scorer_checkpoint import NOTE as SCORER
from diffreid_lightning.filtering.selection import DATASET
from diffreid_lightning.manifest.image_root import IMAGE_SUFFIXES
from diffreid_lightning.manifest.manifest import FILE_NAME
from diffreid_lightning.personalization.callbacks import FOLDER
from diffreid_lightning.personalization.checkpoint import IDENTITIES_FILE, PIPELINE_FOLDER, TOKENS_FILE, read_note
from diffreid_lightning.storage.atomic import describe_existing

#: of what the three kinds hold: tables, texts, tensors and pictures; nothing that is run or unpickled
_SHARED = frozenset([".safetensors", ".parquet", ".json", ".txt", ".model", ".md", ".csv", *IMAGE_SUFFIXES])
_WITHOUT_SUFFIX = ("LICENSE", "NOTICE")
REAL_IMAGES = "card/nearest_real.png"  #: of Diff-Person: generated images beside the real ones nearest to them
_DEPTH = 3  # of a run's folder below a chain's root
_AGAIN = "write the folder again with the command that made it, or fetch it again"


@dataclass(frozen=True)
class Kind:
    """Kind of folder that can be shared.

    Args:
        name: with its article, for messages.
        folder: its usual name in a run folder.
        marks: files by which it is known, relative to it.
        repo_type: the hub's type of repository: ``model`` or ``dataset``.
        use: options that use the folder, with ``{}`` in its place.
        check: raises a :class:`UserError` if a folder of this kind is damaged or incomplete.
    """

    name: str
    folder: str
    marks: tuple[str, ...]
    repo_type: str
    use: str
    check: Callable[[Path], None]


def _check_backbone(folder: Path) -> None:
    read_timm_folder(folder)


def _check_personalized(folder: Path) -> None:
    from diffreid_lightning.diffusion.checkpoints import locate_pipeline
    from diffreid_lightning.personalization.checkpoint import read_tokens

    noted, (names, _) = read_note(folder), read_tokens(folder)
    if names != [each["name"] for each in noted["identities"]]:
        raise UserError(
            f"{folder} is no complete personalized model.",
            looked_for=f"the names of {IDENTITIES_FILE} in {TOKENS_FILE}",
            found=shorten(names, 4),
            remedy=_AGAIN,
        )
    if (folder / PIPELINE_FOLDER).is_dir():
        locate_pipeline(folder / PIPELINE_FOLDER)


def _check_diff_person(folder: Path) -> None:
    dataset = DiffPerson(folder)
    dataset.note()
    manifest = dataset.scan()[0]
    if manifest.root.resolve() != folder.resolve():
        raise UserError(
            f"{folder} names images outside itself.",
            looked_for=str(folder),
            found=str(manifest.root),
            remedy="write it again by select, which copies the images",
        )
    here = set(list_files(folder))  # what is transferred: nothing hidden, and nothing behind a link to a folder
    missing = [name for name in manifest.table["file_name"].to_pylist() if name not in here]
    if missing:
        raise UserError(
            f"{folder} lacks images.",
            looked_for=f"every image of {FILE_NAME}",
            found=f"{len(missing):,} are missing: {shorten(missing, 3)}",
            remedy=f"{_AGAIN}; links to folders are not followed",
        )


BACKBONE = Kind(
    "a backbone", EXPORTED, (CONFIG_FILE, WEIGHTS_FILE), "model", "fit --model.init_from {}", _check_backbone
)
PERSONALIZED = Kind(
    "a personalized model",
    FOLDER,
    (IDENTITIES_FILE, TOKENS_FILE),
    "model",
    "predict --config stages/generate --model.model {}",
    _check_personalized,
)
DIFF_PERSON = Kind("Diff-Person", DATASET, (FILE_NAME, NOTE), "dataset", "fit --data.train {}", _check_diff_person)
KINDS = (BACKBONE, PERSONALIZED, DIFF_PERSON)
FORMS = "; ".join(f"{kind.name} ({' and '.join(kind.marks)})" for kind in KINDS)


def kind_of_files(names: Collection[str]) -> Kind | None:
    """Return the kind that a folder or repository with these files has; None if it has none or several."""
    found = [kind for kind in KINDS if all(mark in names for mark in kind.marks)]
    return found[0] if len(found) == 1 else None


def _kind_of_folder(folder: Path) -> Kind | None:
    if (folder.parent / SCORER).is_file():  # a scorer's network, which is of no use without the rest
        return None
    return kind_of_files([mark for kind in KINDS for mark in kind.marks if (folder / mark).is_file()])


def list_files(folder: Path) -> list[str]:
    """List the files below a folder as sorted POSIX paths; hidden files and folders are left out."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Return true if a part of a POSIX path begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def find_shared(path: Path) -> tuple[Path, Kind]:
    """Find the one folder to share at or below a path.

    Args:
        path: the folder itself, a run folder, or a folder of runs that holds a single one.

    Raises:
        UserError: there is none, or there are several.
    """
    kind = _kind_of_folder(path)
    if kind is not None:
        return path, kind
    found = []
    for each in KINDS:
        for depth in range(_DEPTH + 1):
            places = sorted(path.glob("*/" * depth + each.folder)) if path.is_dir() else []
            found += [(place, each) for place in places if _kind_of_folder(place) is each]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{path} holds several folders that can be shared.",
            looked_for="one of them",
            found=shorten([str(place) for place, _ in found], 12),
            remedy="give the path of one",
        )
    raise UserError(
        f"{path} is not shared: it is neither a backbone, nor a personalized model, nor Diff-Person.",
        looked_for=f"{FORMS}; there or in a run folder",
        found=describe_existing(path),
        remedy="give the folder that fit, convert or select has written",
    )


def check_shared(folder: Path, kind: Kind) -> None:
    """Check that a folder is complete and readable, and holds no file that may run code.

    Raises:
        UserError: it is not.
    """
    names = list_files(folder)
    refuse_other_files(names, str(folder))
    kind.check(folder)
    for name in names:
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, "np"):  # compares the header with the file's length
                    pass
            except (OSError, SafetensorError) as error:
                raise UserError(f"{folder / name} is damaged.", found=first_line(error), remedy=_AGAIN) from error


def refuse_other_files(names: Collection[str], place: str) -> None:
    """Refuse files that do not belong to the three kinds: pickles and programs among them run code when opened.

    Raises:
        UserError: there are some.
    """
    paths = [PurePosixPath(name) for name in names]
    others = [path for path in paths if path.suffix.lower() not in _SHARED and path.name not in _WITHOUT_SUFFIX]
    if others:
        raise UserError(
            f"{place} holds files that may be pickles or programs.",
            looked_for="safetensors, Parquet, JSON, texts and pictures only",
            found=shorten(map(str, others), 4),
            remedy="share and fetch repositories without them; timm's own weights need no pull: "
            "--model.init_from hf-hub:OWNER/NAME",
        )
