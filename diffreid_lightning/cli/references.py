"""Resolve references between settings (``${trainer.max_epochs}``, ``${oc.env:HOME}``), and put them back.

References are resolved in what was written, once all layers and flags are laid over each other and before the parser
sees it: the defaults of classes are Python objects that need not survive being written as YAML. A reference to a
setting that nobody wrote finds the default of its class.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from diffreid_lightning.cli import config_classes
from diffreid_lightning.errors import UserError, nearest

Path = tuple[str | int, ...]
_NOT_FOUND = re.compile(r"Interpolation key '([^']*)' not found(?: \(resolved to '([^']*)'\))?")
_INDICES = re.compile(r"(\[\d+\])+$")
_NO_VARIABLE = re.compile(r"Environment variable '([^']*)' not found")
_LITERAL = re.compile(r"(\\*)\$\{")
_PLAIN = (bool, int, float, str, type(None))
_FORM = "${...} with the path of a setting, from the top: ${trainer.max_epochs}; or ${oc.env:NAME}"


def resolve_references(written: Mapping[str, Any], links: Mapping[str, str] | None = None) -> dict[str, Any]:
    r"""Replace each reference by the value it stands for, and ``\${`` by ``${``.

    Args:
        written: the configuration, flags applied.
        links: settings that take the value of another one where nobody wrote them, as dotted paths.

    Raises:
        UserError: a reference leads nowhere or in a circle, or cannot be read.
    """
    tree: dict[str, Any] = copy.deepcopy(dict(written))
    # A class that is named alone has settings that can be referred to as well.
    named = {
        key: tree[key] for key in config_classes.SECTIONS if isinstance(tree.get(key), str) and "${" not in tree[key]
    }
    tree |= {key: {"class_path": name} for key, name in named.items()}
    added: set[str] = set()
    while True:
        try:
            resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
        except (OmegaConfBaseException, RecursionError) as error:
            wanted = _INDICES.sub("", _missing_setting(error, tree))
            path = (links or {}).get(wanted, wanted)
            found = None if wanted in added or not wanted else find_value(tree, path)
            if found is None:
                raise _worded(error, tree) from error
            added.add(wanted)
            _put(tree, split_path(wanted), found[0])
            continue
        result: dict[str, Any] = {str(key): value for key, value in dict(resolved).items()}  # type: ignore[arg-type]
        for keys in map(split_path, added):  # only for the look-up: what nobody wrote stays the parser's
            del _parent(result, keys)[keys[-1]]
        return result


def keep_references(resolved: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    r"""Put references to other settings (``${trainer.max_epochs}``) back where a configuration had them.

    Args:
        resolved: the configuration as the parser understood it.
        written: the same one as it was given, flags applied.

    Returns:
        A copy of ``resolved``, with each reference of ``written`` in the place of the value it stands for. What comes
        from elsewhere (``${oc.env:HOME}``) stays resolved: a run's config says what it ran with. ``${`` that belongs to
        a value is written as ``\${``.
    """
    kept: dict[str, Any] = _escaped(resolved)
    for keys, text in _references(written):
        trial = copy.deepcopy(dict(resolved))
        try:
            value = _parent(trial, keys)[keys[-1]]
            _parent(trial, keys)[keys[-1]] = text
            stands_for = OmegaConf.create({"value": _parent(OmegaConf.create(trial), keys)[keys[-1]]})
            if OmegaConf.to_container(stands_for, resolve=True) == {"value": value}:
                _parent(kept, keys)[keys[-1]] = text
        except (KeyError, IndexError, TypeError, OmegaConfBaseException):  # the parser put something else there
            continue
    return kept


def find_value(settings: Mapping[str, Any], path: str) -> tuple[Any] | None:
    """Return the plain value of a setting, written or the default of its class.

    Args:
        settings: the configuration.
        path: the setting's dotted path, with ``init_args``.

    Returns:
        The value in a tuple of one, or None where there is no such setting or its value is no plain one.
    """
    keys = split_path(path)
    node: Any = settings
    owner: type | None = None
    bases: tuple[type, ...] = ()
    for number, key in enumerate(keys):
        if isinstance(key, int):
            node = node[key] if isinstance(node, list) and key < len(node) else None
            continue
        if number == 0:
            owner, bases = (Trainer, ()) if key == "trainer" else (None, (config_classes.SECTIONS.get(key, object),))
        elif key == "init_args":
            owner = _class_of(node, bases)
        elif owner is not None:
            default = config_classes.argument_defaults(owner).get(key, inspect.Parameter.empty)
            written = isinstance(node, Mapping) and key in node
            if number == len(keys) - 1 and not written:
                return (default,) if default is not inspect.Parameter.empty and _is_plain(default) else None
            bases = tuple(config_classes.classes_in(config_classes.type_hints(owner).get(key)))
            owner = None
        node = node.get(key) if isinstance(node, Mapping) else None
    return None if node is None or (isinstance(node, (Mapping, list)) and not _is_plain(node)) else (node,)


def split_path(path: str) -> Path:
    """Split ``trainer.callbacks[0].name`` into its keys and indices."""
    return tuple(int(key) if key.isdigit() else key for key in re.split(r"[.\[\]]+", path) if key)


def _references(node: Any, keys: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(node, str) and "${" in node and ":" not in node:
        yield keys, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _references(value, (*keys, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _references(value, (*keys, index))


def _escaped(node: Any) -> Any:
    if isinstance(node, str):
        return _LITERAL.sub(lambda found: 2 * found[1] + r"\${", node)
    if isinstance(node, Mapping):
        return {key: _escaped(value) for key, value in node.items()}
    return [_escaped(value) for value in node] if isinstance(node, list) else node


def _parent(node: Any, keys: Path) -> Any:
    for key in keys[:-1]:
        node = node[key]
    return node


def _put(node: dict[str, Any], keys: Path, value: Any) -> None:
    for key in keys[:-1]:
        below = node[key] if isinstance(key, int) else node.get(key)  # type: ignore[index]
        if below is None:
            below = node[key] = {}  # type: ignore[index]
        node = below
    node[keys[-1]] = value  # type: ignore[index]


def _missing_setting(error: BaseException, tree: Mapping[str, Any]) -> str:
    """Return the full path of the setting that a reference does not find; "" for any other error."""
    found = _NOT_FOUND.search(str(error))
    if found is None:
        return ""
    place = str(getattr(error, "full_key", None) or "")
    # OmegaConf 2.3.1 names a relative reference without its dots, and not what it resolves to.
    relative = re.search(r"\$\{(\.+)" + re.escape(found[1].lstrip(".")) + r"\}", _text_at(tree, place))
    if found[2] or relative is None:
        return found[2] or found[1]
    parents = split_path(place)[: -len(relative[1])]
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in (*parents, found[1].lstrip(".")))
    return path.removeprefix(".")


def _class_of(node: Any, bases: tuple[type, ...]) -> type | None:
    named = node.get("class_path") if isinstance(node, Mapping) else node
    return config_classes.resolve(named, bases) if isinstance(named, str) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _worded(error: BaseException, tree: Mapping[str, Any]) -> UserError:
    place = str(getattr(error, "full_key", None) or "")
    where = f" at {place.replace('.init_args', '')}" if place else ""
    text = str(error).splitlines()[0]
    variable = _NO_VARIABLE.search(text)
    if variable is not None:
        return UserError(
            f"A reference{where} asks for an environment variable that is not set.",
            looked_for=variable[1],
            remedy=f"export {variable[1]}=VALUE, or give a default: ${{oc.env:{variable[1]},VALUE}}",
        )
    if isinstance(error, RecursionError) or "Recursive" in text or "parent node" in text:
        return UserError(
            f"A reference{where} goes in a circle.",
            found=_text_at(tree, place),
            remedy="give one of the settings on its way a value",
        )
    if isinstance(error, GrammarParseError) or "GrammarParseError" in text:
        return UserError(
            f"A reference{where} cannot be read.",
            looked_for=_FORM,
            found=_text_at(tree, place) or text,
            remedy=r"correct it; where ${ is part of the text itself, write \${",
        )
    wanted = _missing_setting(error, tree)
    guess = nearest(wanted, (path for path in _paths(tree) if path not in wanted), cutoff=0.7) if wanted else None
    return UserError(
        f"A reference{where} leads nowhere.",
        looked_for=_FORM,
        found=f"{_text_at(tree, place)}: there is no {wanted}" if wanted else text,
        remedy=f"did you mean ${{{guess}}}?" if guess else "correct it in the --config that has it",
    )


def _text_at(tree: Mapping[str, Any], place: str) -> str:
    try:
        keys = split_path(place)
        return str(_parent(tree, keys)[keys[-1]])
    except (KeyError, IndexError, TypeError):
        return place


def _paths(node: Any, path: str = "") -> Iterator[str]:
    below = {f"{path}.{key}".lstrip("."): value for key, value in node.items()} if isinstance(node, Mapping) else {}
    if isinstance(node, list):
        below = {f"{path}[{index}]": value for index, value in enumerate(node)}
    for name, value in below.items():
        yield name
        yield from _paths(value, name)
    if path == "trainer":
        yield from (f"trainer.{name}" for name in config_classes.accepted_arguments(Trainer))
