"""Suggest options with which :class:`~.person_folder.PersonFolder` reads a folder in an unknown layout."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from diffreid_lightning.datasets.base import count_splits, descend
from diffreid_lightning.datasets.folder_names import are_not_people, split_word
from diffreid_lightning.datasets.layout_advice import TABLE
from diffreid_lightning.datasets.name_patterns import NAMES_OF_PEOPLE
from diffreid_lightning.datasets.person_folder import PersonFolder
from diffreid_lightning.datasets.split_entries import SPLITS
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot

PATTERNS = (
    *NAMES_OF_PEOPLE,
    r"^[Pp](?P<pid>\d+)_?[Cc](?P<camera>\d+)",  # DeepChange
    r"^(?P<pid>\d{4})(?P<camera>0(?=0[12]\.)|00(?=[34]\.))",  # CUHK01: images 1, 2 are one view, 3, 4 the other
    r"^(?P<pid>[^_]+)_c(?P<camera>\d+)(?=[s_.])",  # names of people
    r"(?:^|/)(?P<camera>cam(?:era)?[_-]?\w+)/(?:person_?)?(?P<pid>[^/_.]+)",  # VIPeR, PRID, WARD, iLIDS-VID
    r"^(?P<pid>[^_]+)_(?P<camera>[A-Za-z][^_]*)_[^_]*\.",  # names of people and cameras
    r"^(?P<pid>-?\d+)_\d+_\d+\.",  # Celeb-reID: no cameras
    r"^(?P<pid>\d+)_",  # LaST: no cameras
)
"""Naming schemes of public datasets, the most specific first."""

_FIRST_WEAK = PATTERNS[-3]  # from here on patterns also fit running numbers, so folders of people are tried before

_LISTS = "train_test_split/"
_PRCC = r"(?=.*/(?P<camera>[ABC])[/_])(?:.*/)?(?P<pid>\d+)/"
_KNOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    # VehicleID: a line is "<image> <vehicle>"; no cameras.
    (f"image {_LISTS}train_list.txt", {"pattern": r" (?P<pid>\d+)$", "train": f"{_LISTS}train_list.txt"}),
    # VeRi-Wild, the small test set; its cameras are in vehicle_info.txt, which is not read.
    (
        f"images {_LISTS}train_list.txt {_LISTS}test_3000_query.txt",
        {"pattern": r"(?P<pid>\d+)/[^/]+$", "train": f"{_LISTS}train_list.txt"}
        | {"query": f"{_LISTS}test_3000_query.txt", "gallery": f"{_LISTS}test_3000.txt"},
    ),
    # PRID 2011: only persons 1 to 200 are in both views; any other number is two people.
    (
        "single_shot/cam_a single_shot/cam_b",
        {"pattern": r"cam_(?P<camera>[ab])/person_(?P<pid>\d+)"}
        | {"train": ["single_shot/cam_?/person_0[01]??.png", "single_shot/cam_?/person_0200.png"]},
    ),
    # PRCC, the query in other clothes; images in the same clothes are in B.
    (
        "rgb/train rgb/test/A rgb/test/C",
        {"pattern": _PRCC, "train": "rgb/train", "val": "rgb/val", "query": "rgb/test/C", "gallery": "rgb/test/A"},
    ),
)
"""Layouts that need more than a pattern: the files and folders that identify them, and the arguments."""

_PROBE = 200


def suggest_options(images: ImageRoot, generic: str = TABLE) -> str:
    """Return commands that read a folder, after trying them.

    Args:
        images: the folder.
        generic: the answer if no options can be derived.
    """
    places = descend(images)
    for find in (_find_known, _derive):
        for place in places:
            options = find(place)
            if options is not None:
                return _format_commands(place, options)
    return generic


def _find_known(images: ImageRoot) -> dict[str, Any] | None:
    """Return the arguments for a layout that its folders and files identify, or None."""
    for marks, options in _KNOWN:
        if all(images.peek(mark, 1) or images.exists(mark) for mark in marks.split()) and _can_read(images, options):
            return options
    return None


def _derive(images: ImageRoot) -> dict[str, Any] | None:
    """Return arguments with which a folder can be read, or None.

    Folders with the name of a split are that split; the first pattern that fits every name gives person and camera.
    The arguments must read at least two people, and more images than people.
    """
    names = images.images()
    if not names:
        return None
    splits = _splits(names)
    if splits is None or (not splits and has_lists(images)):
        return None
    sample = names[:: max(1, len(names) // _PROBE)]
    for pattern in PATTERNS:
        if pattern == _FIRST_WEAK and _can_read(images, splits):
            return splits
        if "/" in pattern and _people_above_cameras(sample):
            return _with_camera_folders(images, names, splits)
        option, search = {"pattern": pattern}, re.compile(pattern).search
        # A sample is faster; names of another form are found when all files are read.
        fits = all(search(name if "/" in pattern else name.rpartition("/")[2]) for name in sample)
        if fits and _can_read(images, {**option, **splits}):
            return {**option, **splits}
    return _with_camera_folders(images, names, splits)


def _format_commands(images: ImageRoot, options: dict[str, Any]) -> str:
    """Return commands with these arguments, and the counts that they read."""
    counts = count_splits(_open(images, options))
    read = "; ".join(f"{split}: {counts[split]}" for split in SPLITS if split in counts)
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    root = shlex.quote(str(images.path))
    check = " ".join(f"--{name} {shlex.quote(value)}" for name, value in words.items())
    fit = " ".join(f"--data.train.{name} {shlex.quote(value)}" for name, value in words.items())
    return (
        f"open it as PersonFolder with options; these read {read}\n"
        f"      python -m diffreid_lightning data check {root} --format PersonFolder {check}\n"
        f"      python -m diffreid_lightning fit --data.train PersonFolder --data.train.root {root} {fit}"
    )


def _open(images: ImageRoot, options: dict[str, Any]) -> Any:
    dataset = PersonFolder(images.path, **options)
    dataset.suggests = False
    return dataset.scan()[0]


def _can_read(images: ImageRoot, options: dict[str, Any]) -> bool:
    try:
        manifest = _open(images, options)
    except UserError:
        return False
    labels, keys = manifest.identities()
    return 1 < len(keys) < len(labels)


def _splits(names: Iterable[str]) -> dict[str, Any] | None:
    """Return the folders of each split by their names; None if the names do not decide it."""
    found: dict[str, set[str]] = {}
    for name in names:
        *folders, _ = name.split("/")
        words = [split_word(folder) for folder in folders]
        # test/query is query, val/query is val, train/query_like is train: the first word but for test.
        depth = next((depth for depth, word in enumerate(words) if word not in (None, "test")), None)
        depth = words.index("test") if depth is None and "test" in words else depth
        if depth is not None:
            found.setdefault(str(words[depth]), set()).add("/".join(folders[: depth + 1]))
    if "gallery" not in found and "query" in found and "test" in found:
        found["gallery"] = found["test"]
    if "query" not in found or "gallery" not in found:
        found.pop("query", None)
        found.pop("gallery", None)
    tested = found.pop("test", None)  # without a query folder its queries are unknown
    if "train" not in found and "query" not in found:
        return None if tested or found else {}
    plain = {split: _choose(split, sorted(entries)) for split, entries in found.items()}
    if any(map(_is_whole, plain.get("train", ()))):
        plain.pop("val", None)  # it is part of train_all
    return {split: plain[split][0] if len(plain[split]) == 1 else plain[split] for split in SPLITS if split in plain}


def _choose(split: str, entries: list[str]) -> list[str]:
    """Choose among folders of one split: PRCC's images, not its sketches; train_all; query, not multi-query."""
    entries = [entry for entry in entries if not re.search(r"sketch|mask", entry.lower())] or entries
    whole = [entry for entry in entries if split == "train" and _is_whole(entry)]
    return whole or [entry for entry in entries if entry.rpartition("/")[2].lower() == split] or entries


def _is_whole(entry: str) -> bool:
    return re.search(r"[_-]all$", entry.lower()) is not None


def has_lists(images: ImageRoot) -> bool:
    """Return true if list files for the splits lie beside the images."""
    lists = (name for name in images.names() if name.lower().endswith((".txt", ".csv", ".json", ".mat")))
    return any(split_word(name.rpartition("/")[2].rpartition(".")[0]) for name in lists)


def _people_above_cameras(names: Iterable[str]) -> bool:
    """Return true if all images lie in folders named like cameras, below folders that may be people."""
    folders = [name.split("/")[:-1] for name in names]
    if not all(len(path) > 1 and re.fullmatch(r"cam(?:era)?[_-]?\w+", path[-1]) for path in folders):
        return False
    above = {path[-2] for path in folders}
    return len(above) > 1 and not are_not_people(above) and not any(map(split_word, above))


def _with_camera_folders(images: ImageRoot, names: Iterable[str], splits: dict[str, Any]) -> dict[str, Any] | None:
    """Return arguments for images in ``<person>/<camera>/`` or ``<camera>/<person>/``, or None.

    Without folders of splits the order is ambiguous: inner folders are cameras if they are few and recur, outer folders
    if they are named like cameras.
    """
    if splits:
        options = {"camera_folders": True, **splits}
        return options if _can_read(images, options) else None
    pairs = {tuple(name.split("/")[:-1]) for name in names}
    if any(len(pair) != 2 for pair in pairs):
        return None
    upper, lower = ({pair[level] for pair in pairs} for level in (0, 1))
    if are_not_people(upper) and 1 < len(upper) < len(lower):
        options = {"pattern": r"^(?P<camera>[^/]+)/(?P<pid>[^/]+)/"}
    elif (
        not are_not_people(upper)
        and len(lower) < len(pairs)
        and (len(lower) < len(upper) or _people_above_cameras(names))
    ):
        options = {"camera_folders": True}
    else:
        return None
    return options if _can_read(images, options) else None
