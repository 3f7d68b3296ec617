"""The parser of a command: what it takes beside trainer, model and data, and how a configuration is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from diffreid_lightning.cli import layers

PROGRAM = "python -m diffreid_lightning"
TestWith = Literal["last", "best", "none"]
#: The settings at the top of a configuration that belong to no class, with what they take.
TOP_LEVEL: dict[str, Any] = {
    "seed_everything": bool | int,
    "ckpt_path": str | None,
    "weights_only": bool | None,
    "test_with": TestWith,
    "verbose": bool,
    "return_predictions": bool | None,
    "print_config": Any,
    "help": Any,
    "config": Any,
}
#: Those that not every command has; a config that another command saved may hold them all the same.
_ONLY_FOR = {"test_with": ("fit",), "verbose": ("validate", "test"), "return_predictions": ("predict",)}


def has_setting(subcommand: str, key: str) -> bool:
    """Tell whether a command knows a setting at the top of a configuration, as far as this file decides it."""
    return subcommand in _ONLY_FOR.get(key, (subcommand,))


class HouseParser(LightningArgumentParser):
    """Raises on errors (``main`` words them), resolves interpolations last, and takes no abbreviated flags.

    Args:
        written: the configuration as it was given, which tells :meth:`dump` what refers to another setting.
    """

    def __init__(self, *args: Any, written: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.written = written or {}
        kwargs.update(exit_on_error=False, parser_mode="omegaconf+", allow_abbrev=False)
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

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Write a configuration as YAML; what was given as ``${trainer.max_epochs}`` still follows that setting."""
        text: str = super().dump(*args, **kwargs)
        if not self.written or kwargs.get("with_comments"):
            return text
        resolved = yaml.safe_load(text)
        kept = layers.keep_references(resolved, self.written)
        if kept == resolved:
            return text
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        return header + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
