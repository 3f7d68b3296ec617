"""Read configurations that earlier versions wrote: classes that moved or were renamed, and renamed arguments."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_CLASSES = {
    "ColourCaptioner": "ColorCaptioner",
    "Personalisation": "Personalization",
    "PersonalisationDataModule": "PersonalizationDataModule",
    "PersonalisationExport": "PersonalizationExport",
}
#: Former arguments, by the setting that holds them: other classes may have arguments of these names. "" is the top.
_ARGUMENTS = {
    "train_view": {"colour": "color", "colour_probability": "color_probability"},
    "": {"licence": "license"},
}


def current(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return settings with the classes and arguments of this version in place of former ones; nothing is changed."""
    return _current(settings, "", True)


def _current(value: Any, setting: Any, ours: bool) -> Any:
    """Rename in a value what it holds; ``ours`` tells whether it is an argument of a class of this package."""
    if isinstance(value, list):
        return [_current(below, setting, ours) for below in value]
    if not isinstance(value, Mapping):
        return value
    path = value.get("class_path")
    ours = _is_ours(path) if isinstance(path, str) else ours
    names = _ARGUMENTS.get(setting, {}) if ours else {}
    renamed = {
        names.get(key, key): _current(below, setting if key == "init_args" else key, ours)
        for key, below in value.items()
    }
    if isinstance(renamed.get("class_path"), str):
        renamed["class_path"] = current_class(renamed["class_path"])
    return renamed


def _is_ours(path: str) -> bool:
    """Return true for a short name, which the registry knows, and for a path in this package."""
    return "." not in path or path.partition(".")[0] == _PACKAGE


@functools.cache
def current_class(path: str) -> str:
    """Return the name under which a class is found now; a path that is not this package's stays as it is."""
    if not _is_ours(path):
        return path
    module, _, name = path.rpartition(".")
    name = _CLASSES.get(name, name)
    if module and _has(module, name):
        return f"{module}.{name}"
    return name  # the registry knows it by this


def _has(module: str, name: str) -> bool:
    """Return true if the source of a module names a class; nothing is imported."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None and name in Path(spec.origin).read_text(encoding="utf-8")
