"""Values that nobody asked for, and nested settings with one of them put in somewhere."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

NUMBERS = (-1, 0, 1, 2, 0.5, 3.7, 1e-300, 1e9, 10**9, 10**30, -(10**9), float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "", " ", "x", "null", "nan", "~nobody/x", "../../../outside/evil", "/dev/null", "a" * 300, "\u0000", "\u202e\ud7ff",
    "${trainer.max_epochs}", "${nowhere}", "${oc.env:NOWHERE}", "???", "%s", "{0.__class__}", "2026-01-01", "0x10",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"class_path": "os.system"}, [1, 2, 3])
#: Names of settings and keys whose values are places to write to: what they name is what may be written.
PLACES = ("default_root_dir", "save_dir", "cache_dir", "folder", "out", "dirpath", "root", "images", "roots")
_DEPTH = 3000

Path = tuple[Any, ...]


def odd_value(rng: random.Random) -> Any:
    """Return a value of any type."""
    kinds: tuple[Any, ...] = (NUMBERS, NUMBERS, TEXTS, OTHERS)
    return copy.deepcopy(rng.choice(rng.choice(kinds)))


def near(value: Any, rng: random.Random) -> Any:
    """Return a value of the same type, beyond sense more often than not."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice(NUMBERS)
    if isinstance(value, str):
        cut = rng.randrange(len(value) + 1)
        return rng.choice([rng.choice(TEXTS), value[:cut], value[cut:] + value[:cut], value.upper(), value + value])
    if isinstance(value, list):
        return rng.choice([value[:-1], value + value, value[::-1], [value]])
    return odd_value(rng)


def nested(depth: int = _DEPTH) -> str:
    """Write JSON, and so YAML, that is nested deeper than a parser's stack."""
    return '{"a":' * depth + "[" * depth + "]" * depth + "}" * depth


def paths_in(node: Any, path: Path = ()) -> Iterator[Path]:
    """Walk a nested value: the place of everything in it, itself last."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths_in(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from paths_in(value, (*path, number))
    yield path


def mutate(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Change one or a few places of a nested value.

    Returns:
        The changed copy, and what was done, in words.
    """
    changed, told = copy.deepcopy(value), []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        changed, words = _mutate_once(changed, rng)
        told.append(words)
    return changed, "; ".join(told)


def _mutate_once(value: Any, rng: random.Random) -> tuple[Any, str]:
    places = [path for path in paths_in(value) if path and not set(path) & set(PLACES)]
    if not places:
        return odd_value(rng), "all of it replaced"
    path = rng.choice(places)
    where = ".".join(map(str, path))[:120]
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    action = rng.choice(("near", "near", "odd", "odd", "remove", "rename", "double"))
    if action in ("near", "odd"):
        parent[path[-1]] = near(parent[path[-1]], rng) if action == "near" else odd_value(rng)
        return value, f"{where} = {parent[path[-1]]!r}"[:200]
    if action == "remove" or not isinstance(parent, dict):
        del parent[path[-1]]
        return value, f"{where} removed"
    if action == "rename":
        parent[str(path[-1])[:-1] + rng.choice("xyz")] = parent.pop(path[-1])
        return value, f"{where} renamed"
    parent[path[-1]] = [parent[path[-1]], copy.deepcopy(parent[path[-1]])]
    return value, f"{where} doubled"
