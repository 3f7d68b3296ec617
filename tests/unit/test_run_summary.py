"""One form for the summaries of all runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffreid_lightning.backbones.weight_provenance import initialization_record
from diffreid_lightning.errors import UserError
from diffreid_lightning.run_summary import FILE, RunSummary, named_sources, read_summary

SUMMARY = RunSummary(
    "fit",
    "abc12345",
    2,
    "0" * 64,
    seed=3,
    selection="best",
    data={"train": {"manifests": [{"sources": ["duke"], "manifest": "1"}]}, "test": {"source": "market1501"}},
    initialization={"init_from": "folder", "sources": ["market1501"], "steps": 600},
    metrics={"test": {"mAP": 48.25, "Rank-1": 55.5}},
    steps=300,
)

#: of weights whose training set is not recorded
NO_COUNTS = {"images": 0, "identities": 0}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None
    SUMMARY.write(tmp_path)
    assert read_summary(tmp_path) == SUMMARY
    assert SUMMARY.total_steps == 900
    assert SUMMARY.sources == {"duke", "market1501"}


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"metrics": {"test": {"mAP": "high"}}}, {"steps": None}, {"initialization": {}}]
)
def test_another_form_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    SUMMARY.write(tmp_path)
    note = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**note, **change}))
    with pytest.raises(UserError, match="damaged"):
        read_summary(tmp_path)


def test_a_key_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    SUMMARY.write(tmp_path)
    note = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**note, "energy": 3}))
    assert read_summary(tmp_path) == SUMMARY


def test_sources_are_found_however_deep() -> None:
    note = {"a": [{"sources": ["x"]}, {"b": {"sources": ["y", "x"], "manifest": "z"}}], "sources": "no list"}
    assert named_sources(note) == {"x", "y"}


def test_weights_tell_the_trainings_behind_them(tmp_path: Path) -> None:
    earlier = {"init_from": None, "sources": ["world"], "steps": 40}
    manifests = [{"sources": ["campus"], "manifest": "f" * 64}]
    training = {"training_data": {"manifests": manifests}, "steps": 600, "initialization": earlier}
    (tmp_path / "provenance.json").write_text(json.dumps({"training": training}))
    expected = {"init_from": str(tmp_path), "sources": ["campus", "world"], "steps": 640, **NO_COUNTS}
    assert initialization_record(str(tmp_path)) == expected
    assert initialization_record(f"local-dir:{tmp_path}") == {**expected, "init_from": f"local-dir:{tmp_path}"}
    weights = tmp_path / "model.safetensors"
    weights.touch()
    assert initialization_record(str(weights)) == {**expected, "init_from": str(weights)}


@pytest.mark.parametrize("name", [None, "timm", "hf-hub:owner/name", "efficientnet-lite0"])
def test_nothing_is_recorded_of_weights_of_others(name: str | None, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "provenance.json").write_text(json.dumps({"training": {"steps": 5, "sources": ["x"]}}))
    assert initialization_record(name) == {"init_from": name, "sources": [], "steps": 0, **NO_COUNTS}
