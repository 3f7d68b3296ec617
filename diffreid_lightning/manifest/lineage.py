"""Record the manifests that a network was trained on, as JSON beside its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.storage.json_notes import read_json


def read_provenance(file: Path) -> dict[str, Any]:
    """Read a ``provenance.json``; empty where there is none, as beside networks that others trained.

    Raises:
        UserError: the file is damaged.
    """
    if not file.exists():
        return {}
    return read_json(file, remedy="restore the file, or export the network again")


def manifests_named(note: Any) -> Iterator[str]:
    """Yield every content hash that stands under a key ``manifest``, however deep."""
    if isinstance(note, Mapping):
        if isinstance(note.get("manifest"), str):
            yield note["manifest"]
        for value in note.values():
            yield from manifests_named(value)
    elif isinstance(note, list):
        for value in note:
            yield from manifests_named(value)
