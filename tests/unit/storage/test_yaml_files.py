"""YAML that grows as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning.storage.yaml_files import read_yaml
from tests.fuzz.files import YAML_BOMB
from tests.fuzz.values import nested


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (YAML_BOMB, "100000 values"),
        (nested(), "60 levels"),
        (nested(40), "60 levels"),
        ("a: &a [*a]", "contains itself"),
        ("a: !!python/object/apply:os.mkdir [x]", "constructor"),
        ("a: [", "expected"),
        ("a: \x00", "special characters"),
    ],
)
def test_what_no_configuration_is_gets_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=found) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_anchors_and_references_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: &x {b: 1}\nc: *x\nd: ${a.b}\n")
    assert read_yaml(file) == {"a": {"b": 1}, "c": {"b": 1}, "d": "${a.b}"}
