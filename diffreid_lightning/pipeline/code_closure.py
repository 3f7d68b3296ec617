"""Find the package's modules that a class imports, directly or not, by reading files and running nothing."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PACKAGE = __package__.partition(".")[0]
_ROOT = Path(__file__).resolve().parents[1]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class _Parsed(NamedTuple):
    """Content of a Python file."""

    names: dict[str, str]  #: module by name, of the names imported from the package at the top of the file
    imports: frozenset[str]  #: dotted names imported from the package anywhere; modules, or names in them
    everything: frozenset[str]  #: dotted names imported from anywhere
    digest: str  #: hash of the code without comments and docstrings


def code_hash(names: Iterable[str], modules: Iterable[str]) -> str:
    """Hash the code behind classes and modules: what they import, without comments and docstrings.

    Args:
        names: words of a configuration; those that name a public class count, others are ignored.
        modules: further modules of the package, dotted.

    Returns:
        64 hexadecimal digits.
    """
    # Dataset formats are listed in datasets/__init__.py, not in the registry.
    registry = _ROOT / "registry.py"
    classes = {**_read(_ROOT / "datasets/__init__.py").names, **_read(registry).names}
    found: dict[str, str] = {}
    seen: set[str] = set()
    queue = [*modules, *(classes[short] for name in names if (short := name.rpartition(".")[2]) in classes)]
    while queue:
        module = queue.pop()
        file = None if module in seen else _file(module)
        seen.add(module)  # a class's name, too, which is no module
        # The registry imports every stage, to name their classes; nothing is computed through it.
        if file is not None and file != registry:
            parsed = _read(file)
            found[module] = parsed.digest
            queue += [*parsed.imports, *_parent_packages(module)]
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def own_code(names: Iterable[str]) -> dict[str, str]:
    """Hash the user's own modules that classes are named in, with all of the user's modules that these import.

    Args:
        names: words of a configuration; import paths (``my_module.MyClass``) count.

    Returns:
        Hash by dotted name; installed packages and this one are not among them.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    queue = [name for name in names if "." in name and name.replace(".", "_").isidentifier()]
    while queue:
        name = queue.pop()
        for module in (name, *_parent_packages(name)):
            if module in seen:
                continue
            seen.add(module)
            file = _own_file(module)
            if file is None:
                continue
            try:
                parsed = _read(file)
            except (SyntaxError, ValueError, OSError):  # a word of a config may name anything
                continue
            found[module] = parsed.digest
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            with contextlib.suppress(ImportError):  # beyond the topmost package
                queue += [importlib.util.resolve_name(name, package) for name in parsed.everything]
    return found


def _own_file(module: str) -> Path | None:
    """Return the file of a module that is neither installed nor of this package, without importing anything."""
    top, _, rest = module.partition(".")
    if top == _PACKAGE or top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    place = next((Path(each) for each in places if each is not None), None)  # no origin: without __init__.py
    if place is None or {"site-packages", "dist-packages"} & set(place.parts):
        return None
    path = place if not rest else (place.parent if place.suffix else place).joinpath(*rest.split("."))
    candidates = (path,) if not rest else (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.suffix == ".py" and file.is_file()), None)


def _parent_packages(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py") if path != _ROOT else (path / "__init__.py",)
    return next((file for file in candidates if file.is_file()), None)


def _read(file: Path) -> _Parsed:
    status = file.stat()
    return _parse(file, status.st_mtime_ns, status.st_size)


@functools.cache
def _parse(file: Path, modified: int, size: int) -> _Parsed:
    """Parse a file; ``modified`` and ``size`` tell it from an earlier version of itself."""
    tree = ast.parse(file.read_bytes())
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            dot = "." if node.module else ""
            imports.update((start, *(f"{start}{dot}{alias.name}" for alias in node.names)))
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Expr(ast.Constant(""))
    names = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    ours = frozenset(name for name in imports if name.partition(".")[0] == _PACKAGE)
    return _Parsed(names, ours, frozenset(imports), hashlib.sha256(ast.dump(tree).encode()).hexdigest())
