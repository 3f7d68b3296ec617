"""Detect the format of a dataset by its layout and file names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffreid_lightning.datasets.base import PersonDataset, descend
from diffreid_lightning.datasets.crop_folder import CropFolder
from diffreid_lightning.datasets.cuhk03np import BOXES, CUHK03NP
from diffreid_lightning.datasets.diff_person import DiffPerson
from diffreid_lightning.datasets.dukemtmcreid import DukeMTMCReID
from diffreid_lightning.datasets.folder_names import find_split_folders
from diffreid_lightning.datasets.layout_advice import TABLE
from diffreid_lightning.datasets.layout_suggestion import has_lists, suggest_options
from diffreid_lightning.datasets.manifest_dataset import ManifestDataset
from diffreid_lightning.datasets.market1501 import Market1501
from diffreid_lightning.datasets.market_layout import FOLDERS
from diffreid_lightning.datasets.miniperson.dataset import MiniPerson
from diffreid_lightning.datasets.msmt17 import MSMT17
from diffreid_lightning.datasets.msmt17_market import MSMT17Market
from diffreid_lightning.datasets.person_folder import PersonFolder
from diffreid_lightning.datasets.person_table import TABLE_SUFFIXES, PersonTable
from diffreid_lightning.datasets.skipped_files import describe_unread, find_unread_images, suggest_conversion
from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.image_root import IMAGE_SUFFIXES, ImageRoot, is_image_name
from diffreid_lightning.paths import not_a_file, user_path

FORMATS: tuple[type[PersonDataset], ...] = (
    DiffPerson,
    ManifestDataset,
    MSMT17,
    CUHK03NP,
    Market1501,
    DukeMTMCReID,
    MSMT17Market,
    PersonFolder,
    PersonTable,
)
"""Every on-disk format, the most specific layout first: the first that recognizes a folder is its format."""

_SIBLINGS = 50  # folders searched for a dataset one level off
_EMBEDDED = "miniperson"


def recognize(images: ImageRoot) -> PersonDataset | None:
    """Return the dataset at ``images`` or in its only subfolder; None if no format fits."""
    for place in descend(images):
        for candidate in FORMATS:
            if candidate.recognizes(place):
                return candidate(place.path)
        boxes = place.path.name
        # CUHK03-NP's inner folder alone
        if boxes in BOXES and set(FOLDERS.values()) <= set(place.folders()):
            return CUHK03NP(place.path.parent, boxes="labeled" if boxes == "labeled" else "detected")
    return None


def detect(path: str | os.PathLike[str]) -> PersonDataset:
    """Return the dataset at a path, with its format's default options; a manifest takes precedence over the layout.

    Args:
        path: a dataset's folder, a .zip of it, a folder inside a .zip, a table of images (``.csv``, ``.tsv``), or a
            ``.parquet`` file: a manifest or a table.

    Raises:
        UserError: the path does not exist or has no known layout.
    """
    file = user_path(path)
    if file.suffix.lower() in TABLE_SUFFIXES and not file.is_dir():
        is_manifest = file.suffix == ".parquet" and not _is_foreign_parquet(file)
        return ManifestDataset(path) if is_manifest else PersonTable(path)
    images = ImageRoot(path)
    dataset = recognize(images)
    if dataset is not None:
        return dataset
    here = descend(images)[-1]
    names = here.names()
    unread = find_unread_images(here, names)
    if unread and not any(map(is_image_name, names)):
        raise UserError(
            f"No file at {images.path} has the suffix of an image that can be read",
            looked_for="files that end in " + ", ".join(sorted(IMAGE_SUFFIXES)),
            found=describe_unread(unread),
            remedy=suggest_conversion(unread),
        )
    near = _one_level_off(Path(images.path)) or _tables_in(descend(images))
    raise UserError(
        f"No dataset is recognized at {images.path}",
        looked_for="one of\n" + "\n".join(f"      {known.__name__}: {known.layout}" for known in FORMATS),
        found=f"{here.path} holds folders {shorten(here.folders()) or '(none)'}; {len(names)} files, such as "
        f"{shorten(names, 3) or '(none)'}",
        remedy=f"did you mean {shorten(near, 4)}?"
        if near
        else _incomplete(here.folders())
        or (suggest_options(images, "") or _people_one_level_off(images) or TABLE) + _without_identities(images),
    )


def _without_identities(images: ImageRoot) -> str:
    """Return how to train on images whose people are not known, as a further line of a remedy."""
    if not CropFolder.has_layout(images):
        return ""
    words = ["python", "-m", "diffreid_lightning", "fit", "--config", "recipes/adapt", "--data.target"]
    return "\n      if nobody is labeled, train on clusters: " + shlex.join([*words, str(images.path)])


def _is_foreign_parquet(file: Path) -> bool:
    """Return true if a Parquet file is not a manifest: it has no column ``partition``."""
    try:
        folder = ImageRoot(file.parent)
        if not folder.in_archive and not_a_file(file) is not None:  # a pipe would be waited for
            return False
        source = pa.BufferReader(folder.read(file.name)) if folder.in_archive else file
        return "partition" not in pq.read_schema(source).names
    except (pa.ArrowException, OSError, UserError):
        return False


def _tables_in(places: Sequence[ImageRoot]) -> list[str]:
    """Return the readable tables of images directly in these folders."""
    found = []
    for place in places:
        for name in place.names():
            if "/" not in name and Path(name).suffix.lower() in TABLE_SUFFIXES:
                try:
                    PersonTable(place.path / name).scan()
                except UserError:
                    continue
                found.append(str(place.path / name))
    return found


def _incomplete(folders: Sequence[str]) -> str:
    """Name the missing one of Market-1501's three folders; "" if more or fewer are missing."""
    missing = [name for name in FOLDERS.values() if name not in folders]
    if len(missing) != 1:  # many layouts have a folder "query"
        return ""
    return f"put {shorten(missing)} beside the others: Market-1501 and similar formats have all three folders"


def _one_level_off(place: Path) -> list[str]:
    """Return the datasets in the parent or the subfolders; not PersonFolder, which fits nearly anything."""
    if not place.is_dir():
        return []
    below = sorted(path for path in place.iterdir() if path.is_dir())[:_SIBLINGS]
    found = []
    for folder in (place.parent, *below):
        try:
            images = ImageRoot(folder)
            known = next((form for form in FORMATS if form is not PersonFolder and form.recognizes(images)), None)
        except (OSError, UserError):  # an unreadable folder
            continue
        if known is not None:
            found.append(f"{folder} ({known.__name__})")
    return found


def _people_one_level_off(images: ImageRoot) -> str:
    """Suggest the folder of people above a person's folder, or the ones below; "" if there are none."""
    place = Path(images.path)
    if not place.is_dir() or has_lists(images):
        return ""
    near = [images.below(name) for name in images.folders()[:_SIBLINGS]] or [ImageRoot(place.parent)]
    found = [f"{one.path} (PersonFolder)" for one in near if _holds_people(one)]
    return f"did you mean {shorten(found, 4)}?" if found else ""


def _holds_people(images: ImageRoot) -> bool:
    try:
        return PersonFolder.has_layout(images)
    except UserError:  # beside the images may lie a folder that nobody may list
        return False


def open_dataset(spec: str | os.PathLike[str] | PersonDataset) -> PersonDataset:
    """Return the dataset given by an object, a path or the word ``miniperson``.

    Args:
        spec: a dataset (returned unchanged), a path (its format is detected), or the embedded dataset: ``miniperson``,
            ``miniperson:campus`` or ``miniperson:station``. Write ``./miniperson`` for a folder of that name.

    Raises:
        UserError: the path does not exist, no format fits, or MiniPerson has no such domain.
    """
    if isinstance(spec, PersonDataset):
        return spec
    word, _, domain = str(spec).partition(":")
    if word != _EMBEDDED:
        _check_spelling(spec)
        return detect(spec)
    return MiniPerson(domain) if ":" in str(spec) else MiniPerson()  # type: ignore[arg-type]  # checked there


def open_unlabeled(spec: str | os.PathLike[str] | PersonDataset) -> PersonDataset:
    """Return the dataset given by an object, a path or the word ``miniperson``; labels are not needed.

    Args:
        spec: as for :func:`open_dataset`. A folder or zip of images in no known layout is a :class:`CropFolder`, as
            are plain folders without query and gallery: they may be cameras.

    Raises:
        UserError: the path does not exist or holds no image.
    """
    if isinstance(spec, PersonDataset) or str(spec).partition(":")[0] == _EMBEDDED:
        return open_dataset(spec)
    file = user_path(spec)
    if file.suffix.lower() in TABLE_SUFFIXES and not file.is_dir():
        return detect(spec)
    _check_spelling(spec)
    images = ImageRoot(spec)
    known = recognize(images)
    plain = type(known) is PersonFolder and not find_split_folders(descend(images)[-1].folders(), flat=False)
    if (known is not None and not plain) or not CropFolder.has_layout(images):
        return known or detect(spec)
    return CropFolder(spec)


def _check_spelling(spec: str | os.PathLike[str]) -> None:
    """Refuse a word that is close to ``miniperson`` and not a path."""
    word = str(spec)
    known = os.path.exists(word)  # noqa: PTH110 (Path.exists raises for a name that is too long)
    if os.sep not in word and not known and nearest(word, [_EMBEDDED], cutoff=0.8):
        raise UserError(
            f"There is no dataset {word!r}.",
            looked_for=f"a path, or {_EMBEDDED}, which is part of the package",
            remedy=f"did you mean {_EMBEDDED}?",
        )
