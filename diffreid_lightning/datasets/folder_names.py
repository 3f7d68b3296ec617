"""Tell by its name, and by those of the files in it, whether a folder is a split, a camera or a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from diffreid_lightning.datasets.split_entries import SPLITS

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("query", "queries", "probe"), "query"),
    "gallery": "gallery",
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}

# Folders of other formats that hold no splits. An incomplete copy must not pass for people of these names.
_OTHER_FORMATS = {"labeled", "detected"}
# Folders whose flat files carry the person in their name: splits only where a pattern reads it.
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
# File names that say person and camera: where they contradict the folders, the folders are no people.
_NAMES_WITH_PEOPLE = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<pid>-?\d+)_c\d+[s_.]",
        r"(?P<pid>\d+)_s\d+_c\d+_",
        r"(?P<pid>\d+)_\d+_c\d+_",
        r"(?P<pid>\d{4}|00-1)C\d+T\d+F\d+",
        r"(?P<pid>\d+)-\d+-\d+-\d+\.",
        r"p(?P<pid>-?\d+)_s\d+_\d+\.",
    )
)

_LEADING_NUMBER = re.compile(r"(\d{1,5})[_-][^/]")  # dates are longer


def split_word(folder: str) -> str | None:
    """Return the split that a folder's name speaks of (``test`` for query and gallery alike), or None.

    ``bounding_box_train``, ``Train`` and ``train-set`` speak of train, ``test-set-query`` of query.
    """
    found = {_WORDS[word] for word in re.split(r"[^a-z]+", folder.lower()) if word in _WORDS}
    return next((split for split in ("val", "query", "gallery", "train", "test") if split in found), None)


def speaks_of_splits(folder: str) -> bool:
    """Tell whether a folder's name is that of a split or of another part of a dataset."""
    return split_word(folder) is not None or folder.lower() in _OTHER_FORMATS


def are_no_people(folders: Collection[str]) -> bool:
    """Tell whether at least half of the folders are named as cameras, scenes or heaps of images are."""
    others = sum(_NO_PERSON.fullmatch(name.lower()) is not None for name in folders)
    return bool(folders) and 2 * others >= len(folders)


def people_in_one_folder(names: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return a folder whose file names are of several people, and these people, or None.

    Only names of this field's forms count, and only where a person has two images there: a running number may stand
    where others have the person.
    """
    names = list(names)
    for naming in _NAMES_WITH_PEOPLE:
        found = [naming.match(name, name.rfind("/") + 1) for name in names]
        if names and all(found):
            folders: dict[str, list[str]] = {}
            for name, match in zip(names, found, strict=True):
                folders.setdefault(name.rpartition("/")[0], []).append(match["pid"] if match else "")
            mixed = ((folder, sorted(set(pids))) for folder, pids in folders.items() if len(set(pids)) < len(pids))
            return next(((folder, people) for folder, people in mixed if len(people) > 1), None)
    return None


def shared_numbers(names: Iterable[str]) -> tuple[list[str], bool] | None:
    """Return the numbers that file names begin with, where most of them occur in several folders; else None.

    People in folders of scenes are named so (``lobby/001_0.jpg``, ``gate/001_0.jpg``), but also the frames of a person.

    Returns:
        The numbers, and whether one occurs twice in a folder, as people do, and running numbers do not.
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


def named_splits(folders: Iterable[str], flat: bool) -> dict[str, str]:
    """Return the split of each folder that is named after one.

    Args:
        folders: names of folders beside one another.
        flat: also folders that hold flat files and no people.
    """
    folders = list(folders)
    splits = {name: name.lower() for name in folders if name.lower() in SPLITS}
    if flat:
        splits |= {name: _FLAT_SPLITS[name.lower()] for name in folders if name.lower() in _FLAT_SPLITS}
    if "query" in splits.values() and "gallery" not in splits.values():
        splits |= {name: "gallery" for name in folders if name.lower() == "test"}
    return splits
