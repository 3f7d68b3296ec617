"""Parser of a subcommand: its top-level settings, and how a configuration is dumped."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, get_args

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from diffreid_lightning import config_files
from diffreid_lightning.cli import references

PROGRAM = "python -m diffreid_lightning"
TestWith = Literal["last", "best", "none"]
#: The settings at the top of a configuration that belong to no class, with what they take.
TOP_LEVEL: dict[str, Any] = {
    "seed_everything": bool | int,
    "ckpt_path": str | None,
    "test_with": TestWith,
    "print_config": Any,
    "help": Any,
    "config": Any,
}
_UNWRITABLE = "Unable to serialize instance"
#: Those that not every command has; a config that another command saved may hold them all the same.
_ONLY_FOR = {"test_with": ("fit",), "verbose": ("validate", "test"), "return_predictions": ("predict",)}


def has_setting(subcommand: str, key: str) -> bool:
    """Tell whether a command knows a setting at the top of a configuration, as far as this file decides it."""
    return subcommand in _ONLY_FOR.get(key, (subcommand,))


class LayeredParser(LightningArgumentParser):
    """Raises on errors (``main`` words them), takes no abbreviated flags, and lets no class inherit from another.

    A setting whose default is a class with arguments, such as ``optimizer: OptimizerCallable = lambda params:
    Adam(params, lr=3.5e-4)``, keeps nothing of it once a class is named; jsonargparse alone would hand on each argument
    that both classes have. Arguments that are given without a class are those of the default's class.

    Args:
        written: the configuration as it was given, which tells :meth:`dump` what refers to another setting.
    """

    def __init__(self, *args: Any, written: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.written = written or {}
        self._named: frozenset[str] = frozenset()
        kwargs.update(exit_on_error=False, parser_mode="yaml", allow_abbrev=False)
        super().__init__(*args, **kwargs)

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """Add a class's arguments, none of which stands for the content of a file that it names.

        jsonargparse reads any file that is given for ``data.train`` as if a configuration were in it: a table or a list
        would take its own path's place, an archive of gigabytes would be read whole, and a pipe waited for.
        """
        added = super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)
        for action in self._actions:
            if action.dest == nested_key and hasattr(action, "sub_add_kwargs"):
                action.sub_add_kwargs["sub_configs"] = False
        return added

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class; a whole number is read as one where it may be one."""
        whole_numbers_first(theclass)
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def parse_object(
        self,
        obj: Namespace | dict[str, Any],
        namespace: Namespace | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        """Parse the arguments of one class: as they are written first, then once more beside its defaults."""
        own = {action.dest: action.default for action in self._actions if _names_class(action.default)}
        if defaults:
            self._named = frozenset(key for key in own if key in obj or (namespace is not None and key in namespace))
        else:
            for key, default in own.items():
                if isinstance(obj.get(key), Mapping) and "class_path" not in obj[key]:
                    obj[key] = config_files.merge_layers({key: _as_mapping(default)}, {key: obj[key]})[key]
        return super().parse_object(obj, namespace, env, defaults, **kwargs)

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Return the defaults, without those in whose place :meth:`parse_object` was given something."""
        named, self._named = self._named, frozenset()
        found = super().get_defaults(*args, **kwargs)
        for key in named:
            found.pop(key, None)
        return found

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write a configuration as YAML; what was given as ``${trainer.max_epochs}`` still follows that setting.

        A default that YAML cannot hold, such as a device or a function, is left out: whoever reads it has it again.
        What is written was parsed, which is not done once more.
        """
        kwargs.setdefault("skip_validation", True)
        text: str = super().dump(_plain(namespace), *args, **kwargs)
        if not self.written or kwargs.get("with_comments"):
            return text
        resolved = yaml.safe_load(text)
        kept = references.keep_references(_without_objects(resolved), self.written)
        if kept == resolved:
            return text
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        return header + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def whole_numbers_first(owner: type) -> None:
    """Put ``int`` before ``float`` in the annotated unions of a class's constructor.

    Types are tried in order, and ``typing`` hands out for ``Union[int, float]`` whatever was made first in the process,
    such as a library's ``Union[float, int]``. ``--trainer.limit_train_batches 1`` would be all batches, not one.
    """
    for each in owner.__mro__:
        hints = getattr(each.__dict__.get("__init__"), "__annotations__", {})
        for name, hint in hints.items():
            kinds = list(get_args(hint))
            if float in kinds and int in kinds[kinds.index(float) :]:
                here, there = kinds.index(float), kinds.index(int)
                kinds[here], kinds[there] = int, float
                hints[name] = functools.reduce(operator.or_, kinds)


def _names_class(value: Any) -> bool:
    return isinstance(value, (Mapping, Namespace)) and "class_path" in value


def _as_mapping(value: Any) -> dict[str, Any]:
    return value.as_dict() if isinstance(value, Namespace) else dict(value)


def _plain(namespace: Namespace) -> Namespace:
    """Turn members of text enumerations, which YAML does not know, into text."""
    plain = namespace.clone()
    for key, value in namespace.items():
        if isinstance(value, str) and isinstance(value, Enum):
            plain[key] = str(value.value)
    return plain


def _without_objects(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_objects(value) for key, value in node.items() if not _is_object(value)}
    return [_without_objects(value) for value in node] if isinstance(node, list) else node


def _is_object(value: Any) -> bool:
    """Tell whether jsonargparse has put its words in the place of an object."""
    if isinstance(value, list):
        return any(map(_is_object, value))
    return isinstance(value, str) and value.startswith(_UNWRITABLE)
