"""Classify folders as splits, cameras or people by their names and their files' names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from diffreid_lightning.datasets.name_patterns import NAMES_OF_PEOPLE
from diffreid_lightning.datasets.split_entries import SPLITS

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("query", "queries", "probe"), "query"),
    "gallery": "gallery",
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}

# Folders of other formats. In an incomplete copy they must not be read as people.
_OTHER_FORMATS = {"labeled", "detected"}
# Folders of flat files named after the person: splits only with a pattern that reads it.
_FLAT_SPLITS = {
    **{"bounding_box_train": "train", "image_train": "train", "bbox_train": "train"},
    **{"bounding_box_test": "gallery", "image_test": "gallery", "image_query": "query"},
}
_NO_PERSON = re.compile(
    r"(cam(era)?|c|view|session|scene|seq(uence)?|set|subset|split|fold|part|day|domain|site)[ _-]?([0-9]{1,3}|[a-z])"
    r"|(videos?|clips?|movies?|recordings?|tapes?|shots?|runs?|tracks?|tracklets?)([ _-]?[0-9]{1,5})?"
    r"|((19|20)[0-9]{2}[-_.][0-9]{1,2}[-_.][0-9]{1,2}|[0-9]{1,2}[-_.][0-9]{1,2}[-_.](19|20)[0-9]{2})([ t_-].*)?"
    r"|(fe)?males?|(wo)?m[ae]n|boys?|girls?|adults?|child(ren)?|database|references?|probes"
    r"|(whole|full|half|partial|occluded|upper|lower)[ _-]?(body|person)([ _-](images?|imgs?|crops?))?"
    r"|[a-z]|images?|imgs?|pictures?|photos?|crops?|cropped[_ -]images|frames?|data|campus|rgb|ir|thermal|visible"
    r"|indoor|outdoor|day|night|single_shot|multi_shot|left|right|front|back|masks?|sketch"
)

_LEADING_NUMBER = re.compile(r"(\d{1,5})[_-][^/]")  # dates are longer


def split_word(folder: str) -> str | None:
    """Return the split that a folder's name contains (``test`` for query and gallery together), or None.

    ``bounding_box_train``, ``Train`` and ``train-set`` contain train, ``test-set-query`` query.
    """
    found = {_WORDS[word] for word in re.split(r"[^a-z]+", folder.lower()) if word in _WORDS}
    return next((split for split in ("val", "query", "gallery", "train", "test") if split in found), None)


def is_part_name(folder: str) -> bool:
    """Return true if a folder is named like a split or another part of a dataset."""
    return split_word(folder) is not None or folder.lower() in _OTHER_FORMATS


def are_not_people(folders: Collection[str]) -> bool:
    """Return true if at least half of the folders are named like cameras, scenes or collections of images."""
    others = sum(_NO_PERSON.fullmatch(name.lower()) is not None for name in folders)
    return bool(folders) and 2 * others >= len(folders)


def find_mixed_folder(names: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return a folder whose file names contain several people, and these people, or None.

    Only the naming schemes of public datasets count, and only if a person has two images in the folder: the number
    could be a running number.
    """
    places = [name.rpartition("/") for name in names]
    for naming in map(re.compile, NAMES_OF_PEOPLE):
        found = [naming.match(file) for *_, file in places]
        if places and all(found):
            folders: dict[str, list[str]] = {}
            for (folder, *_), match in zip(places, found, strict=True):
                folders.setdefault(folder, []).append(match["pid"] if match else "")
            mixed = ((folder, sorted(set(pids))) for folder, pids in folders.items() if len(set(pids)) < len(pids))
            return next(((folder, people) for folder, people in mixed if len(people) > 1), None)
    return None


def find_shared_numbers(names: Iterable[str]) -> tuple[list[str], bool] | None:
    """Return the leading numbers of the file names, if most of them occur in several folders; else None.

    These are people in folders of scenes (``lobby/001_0.jpg``, ``gate/001_0.jpg``), or frames in folders of people.

    Returns:
        The numbers, and whether one occurs twice in a folder, which indicates people.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        found = _LEADING_NUMBER.match(file)
        if found is None:
            return None
        folders.setdefault(folder, []).append(found[1])
    counts = Counter(number for numbers in folders.values() for number in set(numbers))
    if len(counts) < 2 or 2 * sum(count > 1 for count in counts.values()) < len(counts):
        return None
    return sorted(counts), any(1 < len(set(numbers)) < len(numbers) for numbers in folders.values())


def find_split_folders(folders: Iterable[str], flat: bool) -> dict[str, str]:
    """Return the split of each folder that is named after one.

    Args:
        folders: names of sibling folders.
        flat: include folders of flat files (``bounding_box_train``).
    """
    folders = list(folders)
    splits = {name: name.lower() for name in folders if name.lower() in SPLITS}
    if flat:
        splits |= {name: _FLAT_SPLITS[name.lower()] for name in folders if name.lower() in _FLAT_SPLITS}
    if "query" in splits.values() and "gallery" not in splits.values():
        splits |= {name: "gallery" for name in folders if name.lower() == "test"}
    return splits
