"""Damage to files: bytes of any, and what is inside those of the formats that the project reads."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from tests.fuzz import values

Words = str
YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


class Canary:
    """Makes a folder when it is unpickled, which nothing may do.

    Args:
        folder: the folder to make.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def damage(file: Path, rng: random.Random, canary: Path) -> Words:
    """Damage a file in its place.

    Args:
        file: an ordinary file.
        rng: source of every choice.
        canary: the folder that a pickle would make if it were executed.

    Returns:
        What was done, in words.
    """
    inside = _INSIDE.get(file.suffix)
    if inside is not None and rng.random() < 0.7:
        try:
            return f"{file.name}: {inside(file, rng, canary)}"
        except _NOT_THIS_ONE as error:  # a change that cannot be written; the bytes will do
            return f"{file.name}: {damage_bytes(file, rng)} (not {type(error).__name__})"
    if rng.random() < 0.3:
        return f"{file.name}: {_replace(file, rng, canary)}"
    return f"{file.name}: {damage_bytes(file, rng)}"


def damage_bytes(file: Path, rng: random.Random) -> Words:
    """Cut, change, lengthen or empty a file."""
    content = bytearray(file.read_bytes())
    action = rng.choice(("cut", "flip", "flip", "noise", "empty", "longer", "zeros"))
    if action == "cut":
        content = content[: rng.randrange(len(content) + 1)]
    elif action == "flip" and content:
        for _ in range(rng.choice((1, 4, 40))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif action == "noise":
        content = bytearray(rng.randbytes(rng.choice((1, 100, 4000))))
    elif action == "longer":
        content += rng.randbytes(100)
    else:
        content = bytearray(len(content) if action == "zeros" else 0)
    file.write_bytes(content)
    return f"bytes {action}"


def _replace(file: Path, rng: random.Random, canary: Path) -> Words:
    """Put something else in the place of a file."""
    action = rng.choice(("missing", "folder", "loop", "pipe", "dangling", "pickle"))
    file.unlink()
    if action == "folder":
        file.mkdir()
    elif action == "loop":
        file.symlink_to(file.name)
    elif action == "dangling":
        file.symlink_to("nowhere")
    elif action == "pipe":
        os.mkfifo(file)
    elif action == "pickle":
        file.write_bytes(pickle.dumps(Canary(canary)))
    return action


def _json(file: Path, rng: random.Random, canary: Path) -> Words:
    if rng.random() < 0.1:
        file.write_text(values.nested(), encoding="utf-8")
        return "nested without end"
    changed, words = values.mutate(json.loads(file.read_text(encoding="utf-8")), rng)
    if rng.random() < 0.1:
        changed, words = json.loads(values.nested(400)), "nested deeply"
    file.write_text(json.dumps(changed), encoding="utf-8")
    return words


def _yaml(file: Path, rng: random.Random, canary: Path) -> Words:
    draw = rng.random()
    if draw < 0.05:
        file.write_text(values.nested(), encoding="utf-8")
        return "nested without end"
    if draw < 0.1:
        file.write_text(YAML_BOMB, encoding="utf-8")
        return "anchors of anchors"
    if draw < 0.15:
        file.write_text(f"seed_everything: !!python/object/apply:os.mkdir ['{canary}']\n", encoding="utf-8")
        return "a Python object"
    changed, words = values.mutate(yaml.safe_load(file.read_text(encoding="utf-8")), rng)
    file.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    return words


def _csv(file: Path, rng: random.Random, canary: Path) -> Words:
    rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = str(values.odd_value(rng))
    file.write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    return f"a row is {row}"


def _parquet(file: Path, rng: random.Random, canary: Path) -> Words:
    table = pq.ParquetFile(file).read()
    name = rng.choice(table.column_names)
    place = table.column_names.index(name)
    action = rng.choice(("values", "values", "drop", "type", "nulls", "double", "no rows", "note", "note", "list"))
    if action == "values":
        column = table[name].to_pylist()
        of_kind = table[name].type
        for _ in range(rng.choice((1, 3))):
            value = values.near(rng.choice(column), rng)
            column[rng.randrange(len(column))] = value if not pa.types.is_integer(of_kind) else _whole(value)
        table = table.set_column(place, name, pa.array(column, of_kind, from_pandas=False))
        action = f"{name}: {column[:4]!r}"[:150]
    elif action == "note":
        metadata = dict(table.schema.metadata or {})
        key = next(iter(metadata), b"diffreid_lightning")
        changed, action = values.mutate(json.loads(metadata.get(key, b"{}")), rng)
        if rng.random() < 0.1:
            changed, action = json.loads(values.nested(300)), "note nested deeply"
        table = table.replace_schema_metadata({key: json.dumps(changed)})
    elif action == "no rows":
        table = table.slice(0, 0)
    elif action in ("drop", "double"):
        column = table[name]
        table = table.drop_columns([name]) if action == "drop" else table.append_column(f"{name}", column)
    else:
        column = {
            "type": lambda: table[name].cast(rng.choice((pa.string(), pa.float64(), pa.binary(), pa.int8()))),
            "nulls": lambda: pa.nulls(len(table), table[name].type),
            "list": lambda: pa.array([[value] for value in table[name].to_pylist()]),
        }[action]()
        table = table.set_column(place, name, column)
    pq.write_table(table, file)
    return action if ":" in action else f"{action} ({name})"


def _whole(value: Any) -> int | None:
    finite = isinstance(value, (int, float)) and abs(value) < 2**62  # NaN is not
    return int(value) if finite else None


def _npy(file: Path, rng: random.Random, canary: Path) -> Words:
    array = np.array(np.load(file))
    action = rng.choice(("type", "shape", "fewer", "nan", "pickle", "scalar"))
    if action == "type":
        array = array.astype(rng.choice(("float64", "int16", "complex64", "S4", "bool")))
    elif action == "shape":
        array = array.reshape(-1)
    elif action == "fewer":
        array = array[: len(array) // 2]
    elif action == "scalar":
        array = array.reshape(-1)[0]
    elif action == "nan" and array.dtype.kind == "f":
        array[:] = np.nan
    else:
        array = np.array([Canary(canary)], dtype=object)
    with file.open("wb") as handle:
        np.save(handle, array, allow_pickle=True)
    return action


def _safetensors(file: Path, rng: random.Random, canary: Path) -> Words:
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata() or {})
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    action = rng.choice(("drop", "extra", "note", *_TENSOR_DAMAGE))
    if action == "drop":
        del tensors[name]
    elif action == "extra":
        tensors[f"{name}.x"] = torch.ones(2)
    elif action == "note":
        key = rng.choice(sorted(metadata) or ["names"])
        metadata[key] = rng.choice(("", "x", "[]", "[1]", '["a", "a"]', values.nested()))
    else:
        tensors[name] = _TENSOR_DAMAGE[action](tensors[name])
    save_file(tensors, file, metadata=metadata or None)
    return f"{name}: {action}"


_TENSOR_DAMAGE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "type": lambda tensor: tensor.to(torch.int16),
    "double": lambda tensor: tensor.double(),
    "flat": lambda tensor: tensor.reshape(-1).contiguous(),
    "deeper": lambda tensor: tensor[None].contiguous(),
    "fewer": lambda tensor: tensor[:1].clone() if tensor.ndim else tensor,
    "none": lambda tensor: tensor.reshape(-1)[:0].clone(),
    "nan": lambda tensor: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
    "huge": lambda tensor: torch.full_like(tensor, 100),
}


def _checkpoint(file: Path, rng: random.Random, canary: Path) -> Words:
    content = torch.load(file, map_location="cpu", weights_only=True)
    if rng.random() < 0.15:
        content[rng.choice(sorted(content))] = Canary(canary)
        words = "a pickle inside"
    elif rng.random() < 0.4:
        tensors = [path for path in values.paths_in(content) if isinstance(_at(content, path), torch.Tensor)]
        path, action = rng.choice(tensors), rng.choice(sorted(_TENSOR_DAMAGE))
        _at(content, path[:-1])[path[-1]] = _TENSOR_DAMAGE[action](_at(content, path))
        words = f"{'.'.join(map(str, path))}: {action}"
    else:
        content, words = values.mutate(content, rng)
        if rng.random() < 0.3:
            key = rng.choice(sorted(content, key=str)) if isinstance(content, dict) else None
            if key is not None:
                del content[key]
                words += f"; {key} removed"
    torch.save(content, file)
    return words


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def _zip(file: Path, rng: random.Random, canary: Path) -> Words:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    name = rng.choice(sorted(members))
    action = rng.choice(("name", "name", "member", "drop", "bomb"))
    if action == "name":
        new = rng.choice(
            (f"../{name}", f"/{name}", "a\\b.jpg", name.upper(), "x" * 300 + ".jpg", f"{name}/", "é\u202e")
        )
        members[new] = members.pop(name)
    elif action == "member":
        members[name] = rng.choice((b"", members[name][:40], rng.randbytes(500)))
    elif action == "drop":
        del members[name]
    else:
        members[name] = bytes(200_000_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return f"{name}: {action}"


_NOT_THIS_ONE = (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError, IndexError, RuntimeError)
_NOT_THIS_ONE += (AttributeError, UnicodeEncodeError, yaml.YAMLError)
_INSIDE: dict[str, Callable[[Path, random.Random, Path], Words]] = {
    ".json": _json, ".yaml": _yaml, ".csv": _csv, ".parquet": _parquet, ".npy": _npy, ".safetensors": _safetensors,
    ".ckpt": _checkpoint, ".pth": _checkpoint, ".zip": _zip,
}  # fmt: skip


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder or a file, making what is above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
