"""Read YAML files of the user, with a limit on their size after anchors are expanded."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffreid_lightning.paths import not_a_file

_MOST = 100_000  # values, far more than in a vocabulary or a sweep
_DEEPEST = 60


def read_yaml(file: Path) -> Any:
    """Read a YAML file with omegaconf, without resolving references (``${...}``).

    Raises:
        ValueError: it is not YAML, too large or nested too deeply; the message is one line.
        OSError: the file cannot be read.
    """
    found = not_a_file(file)
    if found is not None:
        raise OSError(found)
    return copy.deepcopy(_load(file.read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=64)  # a chain reads the configs of its stages dozens of times
def _load(text: str) -> Any:
    return _read(text, lambda text: OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False))


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
    """Refuse a document with too many values or levels after anchors are expanded."""
    sizes: dict[int, tuple[int, int] | None] = {}  # by node: values and levels; None while it is measured

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
