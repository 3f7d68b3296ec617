"""Artifacts of offline W&B runs, read back: what a stage wrote is, by name and digest, what the next one read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from diffreid_lightning.callbacks.run_artifacts import find_artifact, log_artifacts
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.tracking import WandbTracker, finish_tracking
from tests.fixtures.command_line import TINY
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]


def artifacts(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and the outputs of the one W&B run in a run folder, by type."""
    (file,) = runs_under(run)
    records = read_run(file)["artifacts"]
    inputs = {each.type: each for each in records if each.use_after_commit}
    outputs = {each.type: each for each in records if not each.use_after_commit}
    assert len(inputs) + len(outputs) == len(records)
    return inputs, outputs


def declared(record: Any) -> list[str]:
    names: list[str] = json.loads(record.metadata)["inputs"]
    return names


def test_a_scorer_leads_back_to_the_source_by_its_captions(tracked: Command, market: Path, tmp_path: Path) -> None:
    caption = ["predict", "--config", "stages/caption", f"--data.source={market}", "--data.num_workers=0"]
    assert tracked(*caption, "--trainer.default_root_dir=caption") == 0
    score = [
        "fit",
        "--config",
        "stages/score",
        "--data.train=caption",
        *TINY[:5],
        "--trainer.enable_progress_bar=false",
    ]
    score += ["--trainer.max_epochs=1", "--model.calibration=Uncalibrated", "--trainer.default_root_dir=score"]
    assert tracked(*score) == 0
    start = ["fit", f"--data.train={market}", *TINY, "--model.init_from=score/fit-001/scorer/backbone"]
    assert tracked(*start, "--test_with=none", "--trainer.max_epochs=1") == 0

    (parent,) = Manifest.read(tmp_path / "caption").parents
    source = f"manifest-{parent[:16]}"
    inputs, outputs = artifacts(tmp_path / "caption" / "predict-001")
    assert [each.name for each in inputs.values()] == [source]
    captions = outputs["manifest"]
    assert declared(captions) == [source]
    (file,) = captions.manifest.contents
    assert (file.path, file.ref) == ("metadata.parquet", (tmp_path / "caption/metadata.parquet").as_uri())

    inputs, outputs = artifacts(tmp_path / "score" / "fit-001")
    (read,) = inputs.values()
    assert (read.name, read.digest) == (captions.name, captions.digest)
    assert declared(outputs["scorer"]) == [captions.name]
    assert {each.path for each in outputs["scorer"].manifest.contents} >= {"scorer.json", "backbone/model.safetensors"}

    inputs, outputs = artifacts(tmp_path / "runs/reid/fit-001")
    assert {each.name for each in inputs.values()} == set(declared(outputs["backbone"]))
    noted = json.loads((tmp_path / "runs/reid/fit-001/backbone/provenance.json").read_text())["training"]
    (trained_on,) = noted["training_data"]["manifests"]
    assert inputs["manifest"].name == f"manifest-{trained_on['manifest'][:16]}"
    given = find_artifact(tmp_path / "score/fit-001/scorer/backbone")
    assert given is not None and inputs["backbone"].name == given.name


@pytest.mark.parametrize("how", ["references", "files", "none"])
def test_folders_are_noted_or_uploaded_or_neither(how: Any, tracked: Command, tmp_path: Path) -> None:
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "scorer.json").write_text("{}")
    tracker = WandbTracker(save_dir=str(tmp_path / "run"), artifacts=how)
    tracker.log_metrics({"x": 1.0})
    log_artifacts(tracker, {"model": {"scorer": "scorer"}}, [folder, tmp_path])
    finish_tracking()
    wandb.teardown()
    inputs, outputs = artifacts(tmp_path / "run")
    if how == "none":
        assert not inputs and not outputs
        return
    assert inputs["scorer"].digest == outputs["scorer"].digest
    (file,) = outputs["scorer"].manifest.contents
    # Nothing is copied: the file itself is sent, or only named.
    named = ((folder / "scorer.json").as_uri(), "") if how == "references" else ("", str(folder / "scorer.json"))
    assert (file.ref or "", file.local_path or "") == named


def test_a_failure_ends_no_run(tracked: Command, tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/metadata.parquet").write_bytes(b"damaged")
    tracker = WandbTracker(save_dir=str(tmp_path / "run"))
    with pytest.warns(UserWarning, match="are not logged to W&B"):
        log_artifacts(tracker, [], [tmp_path / "captions"])
    finish_tracking()
