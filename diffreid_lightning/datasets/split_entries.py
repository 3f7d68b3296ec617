"""Assign the images of a folder to splits: by folders, globs or list files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.image_root import ImageRoot, is_image_name

SPLITS = ("train", "val", "query", "gallery")
_GLOB = re.compile(r"(\*\*|\*|\?|\[[^\]]+\])")
_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Placed:
    """An image in a split.

    Args:
        name: its name below the root.
        split: train, val, query or gallery.
        inner: the part of the name below the split's folder; "" where an entry names the image itself.
        rest: the text after the name in the line of a list file.
        person_above: whether the entry may name people or images, so that the person is a folder above ``inner``.
    """

    name: str
    split: str
    inner: str
    rest: str = ""
    person_above: bool = False


def place(images: ImageRoot, names: Sequence[str], wanted: Mapping[str, Iterable[str]]) -> list[Placed]:
    """Assign images to splits.

    Args:
        images: the root.
        names: the images below it.
        wanted: the entries of each split. An entry is a folder, a glob (``*`` stops at a slash, ``**`` does not) of
            folders or images, ``.`` for the whole root, or a list file with one image per line.

    Returns:
        The images of the entries, in the order of the splits; images of no entry are skipped.

    Raises:
        UserError: an entry matches no image, an image is in two splits, or a line of a list matches no image.
    """
    placed: dict[str, Placed] = {}
    for split, entries in wanted.items():
        for entry in entries:
            listed = _is_list(images, entry)
            found = _read_list(images, names, split, entry) if listed else _match_glob(names, split, entry)
            if not found:
                raise _no_such_entry(images, names, split, entry)
            for one in found:
                other = placed.setdefault(one.name, one)
                if other.split != split:
                    raise UserError(
                        f"An image is in two splits: {one.name}",
                        looked_for=f"{other.split} and {split} without a common image",
                        found=f"{split} is {entry}, in {images.path}",
                        remedy=f"give folders, globs or lists without a common image for {other.split} and {split}",
                    )
    return list(placed.values())


def check_pair(place: Path, splits: Collection[str], remedy: str) -> None:
    """Refuse query without gallery and gallery without query.

    Raises:
        UserError: one of them is missing.
    """
    if ("query" in splits) != ("gallery" in splits):
        raise UserError(
            f"Query and gallery require each other, but {place} has only one of them",
            found=", ".join(sorted(set(splits))),
            remedy=remedy,
        )


def _is_list(images: ImageRoot, entry: str) -> bool:
    """Return true if an entry is a list file, not a folder, glob or image."""
    file = _plain(entry)
    return not is_image_name(file) and "*" not in file and file not in ("", ".") and images.exists(file)


def entry_exists(images: ImageRoot, entry: str) -> bool:
    """Return true if an entry's first folder, or the entry as a file, is directly below a root."""
    first, _, rest = _plain(entry).partition("/")
    if first in ("", "."):
        return True
    matches = _compile(first).fullmatch
    return any(map(matches, images.folders())) or (not rest and any(map(matches, images.names())))


def _plain(entry: str) -> str:
    return entry.replace("\\", "/").removeprefix("./").rstrip("/")


def _translate(glob: str) -> str:
    return "".join(
        _WILD.get(part, part.replace("[!", "[^") if part.startswith("[") and part.endswith("]") else re.escape(part))
        for part in _GLOB.split(glob)
    )


def _compile(glob: str, below: str = "") -> re.Pattern[str]:
    """Compile a glob, and a regular expression for what may follow it."""
    try:
        return re.compile(_translate(glob) + below)
    except re.error as error:
        raise UserError(
            f"{glob!r} is not a glob of folders or images",
            looked_for="brackets with letters, or with a range from low to high, such as [0-4]",
            found=str(error),
            remedy="correct the part in brackets",
        ) from error


def _match_glob(names: Sequence[str], split: str, entry: str) -> list[Placed]:
    glob = _plain(entry)
    if glob in ("", "."):
        return [Placed(name, split, name) for name in names]
    match = _compile(glob, "(?:/(?P<inner>.+))?").fullmatch
    of_many = _GLOB.search(glob.rpartition("/")[2]) is not None  # one folder is a split, many may be people
    found = ((name, one["inner"]) for name in names if (one := match(name)) is not None)
    return [Placed(name, split, inner or "", person_above=of_many or not inner) for name, inner in found]


def _read_list(images: ImageRoot, names: Sequence[str], split: str, entry: str) -> list[Placed]:
    """Read a list file: per line the end of an image's path, with or without suffix, and further words."""
    text = images.read(_plain(entry)).decode("utf-8-sig", "replace").replace("\\", "/")
    lines = [line for line in (line.strip().removeprefix("./") for line in text.splitlines()) if line]
    index: dict[str, set[str]] = {name: set() for line in lines for name, _ in _readings(line)}
    for name in names:
        parts = name.split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            for key in (tail, tail.rpartition(".")[0]):
                if key in index:  # all tails of all names would take gigabytes
                    index[key].add(name)
    found: list[Placed] = []
    unclear: list[Placed] = []
    missing: list[str] = []
    for line in lines:
        for name, more in _readings(line):
            known = index[name]
            if known:
                (found if len(known) == 1 else unclear).append(Placed(min(known), split, "", more, True))
                break
        else:
            missing.append(line)
    if missing or unclear:
        raise UserError(
            f"{len(missing) + len(unclear)} lines of {images.path / entry} match no image, or more than one",
            looked_for="a path, or a file name that occurs once, below the root",
            found=shorten([*missing, *(one.name for one in unclear)], 3),
            remedy="correct these lines, or unpack the images again",
        )
    return found


def _readings(line: str) -> list[tuple[str, str]]:
    """Return the names that a line may begin with, the longest first, each with the text after it."""
    head, _, tail = line.rpartition(" ")
    first, *rest = re.split(r"[\s,;]+", line, maxsplit=1)
    return [(line, ""), (head.strip(), tail), (first.strip(), "".join(rest))]


def _no_such_entry(images: ImageRoot, names: Sequence[str], split: str, entry: str) -> UserError:
    folders = sorted({str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."})
    guess = nearest(_plain(entry), folders)
    return UserError(
        f"No image is in {entry!r}, given as {split}",
        looked_for=f"a folder, a glob or a list file below {images.path}",
        found=f"folders with images: {shorten(folders) or 'none'}",
        remedy=f"did you mean --{split} {guess}?" if guess else f"give one of these folders as {split}",
    )
