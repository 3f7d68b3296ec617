"""Reads an offline W&B run back: LevelDB's log framing around wandb's own protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def payloads(path: Path) -> Iterator[bytes]:
    """Yield the records of a log; one cut off by a kill at the end of the file is left out."""
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is no W&B run file")
    position, parts = _FILE_HEADER, []
    while position + _HEADER <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER:  # a block's tail too short for a header is padding
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        chunk = data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind == _FULL:
            yield chunk
        elif kind == _FIRST:
            parts = [chunk]
        elif kind == _MIDDLE:
            parts.append(chunk)
        elif kind == _LAST:
            yield b"".join([*parts, chunk])
        else:
            return


def _name(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def read_run(path: Path) -> dict[str, Any]:
    """Return what a ``run-*.wandb`` file holds.

    ``id``, ``project``, ``config`` (by key), ``history`` (by key, in order), ``steps`` (the metric on the x axis, by
    the name or pattern of those it was given to).
    """
    from wandb.proto import wandb_internal_pb2

    run: dict[str, Any] = {"id": None, "project": None, "config": {}, "history": {}, "steps": {}}
    for payload in payloads(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["project"] = record.run.run_id, record.run.project
            run["config"].update({_name(item): json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "config":
            run["config"].update({_name(item): json.loads(item.value_json) for item in record.config.update})
        elif kind == "metric" and record.metric.step_metric:
            run["steps"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "history":
            for item in record.history.item:
                run["history"].setdefault(_name(item), []).append(json.loads(item.value_json))
    return run


def runs_under(folder: Path) -> list[Path]:
    """Return the W&B run files below a folder, oldest first."""
    return sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
