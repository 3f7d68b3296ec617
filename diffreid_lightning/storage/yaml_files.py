"""YAML files of the user, read only as far as they are of a sensible size once their anchors are followed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffreid_lightning.paths import not_a_file

_MOST = 100_000  # values; a vocabulary or a sweep of thousands is far below
_DEEPEST = 60


def read_yaml(file: Path) -> Any:
    """Read a YAML file with omegaconf; references (``${...}``) stay as they are written.

    Raises:
        ValueError: it is no YAML, or nested deeper or larger than any configuration; the message fits in a line.
        OSError: the file cannot be read.
    """
    found = not_a_file(file)
    if found is not None:
        raise OSError(found)
    return _read(
        file.read_text(encoding="utf-8"),
        lambda text: OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False),
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        ValueError: as :func:`read_yaml`.
    """
    return _read(text, yaml.safe_load)


def _read(text: str, load: Callable[[str], Any]) -> Any:
    try:
        _refuse_unbounded(yaml.compose(text, Loader=yaml.SafeLoader))
        return load(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {_DEEPEST} levels") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _refuse_unbounded(root: yaml.Node | None) -> None:
    """Count the values and levels of a document as they come out once each anchor stands where it is named."""
    sizes: dict[int, tuple[int, int] | None] = {}  # by node: values and levels; None while it is being counted

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise ValueError("an anchor that contains itself")
            return known
        sizes[id(node)] = None
        inner = []
        if isinstance(node, yaml.SequenceNode):
            inner = [measure(each) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            inner = [measure(each) for pair in node.value for each in pair]
        size = 1 + sum(count for count, _ in inner), 1 + max((levels for _, levels in inner), default=0)
        if size[0] > _MOST or size[1] > _DEEPEST:
            raise ValueError(f"more than {_MOST} values, or nested deeper than {_DEEPEST} levels")
        sizes[id(node)] = size
        return size

    if root is not None:
        measure(root)
