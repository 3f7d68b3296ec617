"""Describe the manifests that weights were trained on, and find them in a ``provenance.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.json_notes import mappings_in, read_json


def describe_source(manifest: Manifest) -> dict[str, Any]:
    """Return the source names and the content hash of a manifest, for provenance."""
    return {"sources": sorted(set(manifest.numpy("source").tolist())), "manifest": manifest.content_hash}


def read_provenance(file: Path) -> dict[str, Any]:
    """Read a ``provenance.json``; empty if there is none, as for third-party networks.

    Raises:
        UserError: the file is damaged.
    """
    if not file.exists():
        return {}
    return read_json(file, remedy="restore the file, or export the network again")


def find_manifest_records(note: Any) -> Iterator[Mapping[str, Any]]:
    """Find every mapping that has a content hash under a key ``manifest``, at any depth."""
    return (each for each in mappings_in(note) if isinstance(each.get("manifest"), str))


def find_manifest_hashes(note: Any) -> Iterator[str]:
    """Yield every content hash under a key ``manifest``, at any depth."""
    return (record["manifest"] for record in find_manifest_records(note))
