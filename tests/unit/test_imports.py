"""Imports go one way: between rooms, and between the files of a room."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffreid_lightning

ROOT = Path(diffreid_lightning.__file__).parent
PACKAGE = ROOT.name
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
#: The rooms from the top down: each imports from lower lines only, or from its neighbors where that makes no circle.
LAYERS = (
    "cli",
    "report",
    "sweeps",
    "benchmark",
    "pipeline registry",
    "filtering unsupervised deployment sharing",
    "reid generation distillation",
    "personalization captioning",
    "diffusion callbacks visualization",
    "datasets training",
    "backbones metrics",
    "manifest",
    "picture_logging",
    "config_files tracking run_summary metric_history",
    "storage",
    "former_names paths devices packaged cores durations",
    "errors",
)
MAY_REPEAT = {"__init__", "module", "datamodule", "base", "writer", "callbacks"}


def imported(path: Path) -> Iterable[str]:
    """Name the package's modules that a file imports, inside functions too; type checking alone does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def room(module: str) -> str:
    """Return the room of a module; one at the top level is a room of its own."""
    return module.split(".")[1] if "." in module else module


@functools.cache
def imports() -> dict[str, set[str]]:
    """Name what each module imports; read when a test asks, not when tests are collected."""
    return {module: set(imported(path)) - {module} for module, path in MODULES.items()}


def refuse_cycle(graph: Mapping[str, Iterable[str]]) -> None:
    """Fail with the names along a cycle, if there is one."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_no_file_imports_itself_in_a_circle() -> None:
    assert len(imports()) > 100 and any(imports().values())
    refuse_cycle(imports())


def test_no_room_imports_itself_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in imports().items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    for name, others in rooms.items():
        others.discard(name)
        others.discard(PACKAGE)
    rooms.pop(PACKAGE)
    rooms.pop("__main__")
    refuse_cycle(rooms)
    height = {name: -number for number, layer in enumerate(LAYERS) for name in layer.split()}
    assert set(rooms) == set(height), "every room has its place in LAYERS"
    upwards = [f"{name} -> {other}" for name in rooms for other in rooms[name] if height[other] > height[name]]
    assert not upwards


def test_no_two_files_have_one_name() -> None:
    counts = Counter(path.stem for path in MODULES.values())
    assert {name for name, count in counts.items() if count > 1} <= MAY_REPEAT


def test_a_circle_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"in a circle: [ab] -> [ab] -> [ab]"):
        refuse_cycle({"a": {"b"}, "b": {"a"}})


def test_commands_that_need_no_network_start_without_torch() -> None:
    commands = {module for module in MODULES if module.startswith(f"{PACKAGE}.cli.commands.")}
    commands -= {f"{PACKAGE}.cli.commands.select"}  # which has the options of Lightning's parser
    rooms = "benchmark.job_records benchmark.expansion report.page report.dataset_browser sweeps.sweep_file"
    light = [f"{PACKAGE}.cli.main", *sorted(commands), *(f"{PACKAGE}.{name}" for name in rooms.split())]
    script = f"import sys, {', '.join(light)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
