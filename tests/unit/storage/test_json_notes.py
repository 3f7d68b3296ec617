"""Notes of the package's own that are not what they were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.manifest.provenance import read_provenance
from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage.json_notes import DamagedFile, mismatch, parse_json, read_json

DEEP = '{"a":' * 5000 + "1" + "}" * 5000


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "JSONDecodeError"), (b'{"run_id": "x"', "JSONDecodeError"), (b"\xff\xfe", "UnicodeDecodeError"),
        (b"[1]", "the top is"), (b"{}", "'run_id'"), (b'{"run_id": 5, "attempt": 1}', "run_id is '5'"),
        (b'{"run_id": "x", "attempt": true}', "attempt is 'True'"), (b'{"run_id": "x", "attempt": NaN}', "'nan'"),
        (DEEP.encode(), "200 levels"), (('{"a":' * 300 + "1" + "}" * 300).encode(), "200 levels"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        read_json(file, {"run_id": str, "attempt": int}, remedy="do this")
    assert str(file) in str(caught.value) and found in str(caught.value.found) and caught.value.remedy == "do this"


@pytest.mark.parametrize(
    ("put", "found"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a named pipe"),
        (lambda file: file.symlink_to(file.name), "link"),
        (lambda file: file.symlink_to("nowhere"), "a link to nothing"),
        (lambda file: None, "no file"),
    ],
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, put: Callable[[Path], Any], found: str) -> None:
    put(tmp_path / "a.json")
    assert found in str(not_a_file(tmp_path / "a.json")).lower()
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "a.json", remedy="")


def test_a_form_holds_lists_and_objects_of_any_keys() -> None:
    form = {"roots": {str: [str]}, "gap": [float], "why": (str, type(None))}
    sound = {"roots": {"a": ["b"]}, "gap": [1, 0.5], "why": None, "more": object()}
    assert mismatch(sound, form) is None
    assert mismatch({**sound, "roots": {"a": ["b", 3]}}, form) == "roots.a[1] is '3'"
    assert mismatch({**sound, "gap": {}}, form) == "gap is not a list"
    assert mismatch({**sound, "roots": []}, form) == "roots is not an object"


def test_provenance_nested_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "provenance.json"
    assert read_provenance(file) == {}
    file.write_text(DEEP)
    with pytest.raises(DamagedFile, match="provenance"):
        read_provenance(file)
    with pytest.raises(ValueError, match="levels"):
        parse_json("[" * 201 + "]" * 201)
    assert parse_json(json.dumps({"a": [1]})) == {"a": [1]}
