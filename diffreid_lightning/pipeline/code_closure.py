"""Find the package's modules that a class is built from, by reading imports and running nothing."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_PACKAGE = __package__.partition(".")[0]
_ROOT = Path(__file__).resolve().parents[1]
_REGISTRY = f"{_PACKAGE}.registry"


def code_hash(names: Iterable[str], modules: Iterable[str]) -> str:
    """Hash the code behind classes and modules: what they import, without comments and docstrings.

    Args:
        names: words of a configuration; those that name a public class count, others are ignored.
        modules: further modules of the package, dotted.

    Returns:
        64 hexadecimal digits.
    """
    classes = _classes()
    seen: set[str] = set()
    queue = [*modules, *(classes[short] for name in names if (short := name.rpartition(".")[2]) in classes)]
    while queue:
        module = queue.pop()
        # The registry imports every stage, to name their classes; nothing is computed through it.
        if module not in seen and module != _REGISTRY:
            seen.add(module)
            queue += _imported(module)
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(f"{module}\0{_module_hash(module)}\0".encode())
    return digest.hexdigest()


def forget() -> None:
    """Read every file anew when it is next asked for."""
    for remembered in (_tree, _classes, _imported, _module_hash):
        remembered.cache_clear()


@functools.cache
def _classes() -> dict[str, str]:
    """Map each public class to its module, by the registry's imports; formats are named in the datasets' room."""
    found: dict[str, str] = {}
    for module in (f"{_PACKAGE}.datasets", _REGISTRY):
        for node in _tree(module).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found.update({alias.name: node.module for alias in node.names})
    return found


@functools.cache
def _imported(module: str) -> tuple[str, ...]:
    """Name the package's modules that a module imports, inside functions too, and the packages around it."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    found.update(_around(module))
    return tuple(sorted(name for name in found if name.startswith(_PACKAGE) and _file(name) is not None))


def _around(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py") if path != _ROOT else (path / "__init__.py",)
    return next((file for file in candidates if file.is_file()), None)


@functools.cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None, module
    return ast.parse(file.read_bytes())


@functools.cache
def _module_hash(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            body[0].value = ast.Constant("")
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
