"""The comparison end to end: a few people, a random generator of a few thousand weights, in this process."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffreid_lightning import config_files
from diffreid_lightning.cli import main
from diffreid_lightning.datasets import Market1501
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.evidence import __main__ as evidence
from experiments.evidence import filters, lab, stages
from experiments.evidence.plan import Plan
from experiments.evidence.rows import FEW, FULL, WORLD
from experiments.evidence.settings import Question, Settings
from experiments.instruments.report import write_json
from tests.fixtures.dataset_layouts import write_market1501

PLAN = Plan(
    images_per_identity=2,
    halved=1,
    floor=1,
    personalize_steps=1,
    personalize_batch=4,
    prior_images_per_identity=1,
    scorer_iterations=1,
    identities_per_batch=2,
    images_per_batch_identity=2,
    seeds=(0,),
    choice_seeds=(0,),
    choice_images=1,
    validations=1,
    more={
        "personalize": ["--data.prior.init_args.steps=1", "--trainer.callbacks=[RunCheckpoint, PersonalizationExport]"],
        "generate": ["--model.steps=1"],
        "score": ["--data.num_workers=0", "--model.calibration=FoldHeads"],
    },
)  # fmt: skip
START = Settings(pretrain_iterations=2, scratch_iterations=2, tune_iterations=2)
ABLATIONS = ("frozen base, consensus prompt", "without LPE", "real images, as long")
QUESTIONS = (Question("generated_share", FULL, (None, 0.5)),)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Market-1501 folder as a manifest, three of its training people held out."""
    root = write_market1501(tmp_path_factory.mktemp("evidence") / "market", train_ids=range(2, 9))
    manifest, _ = Market1501(root).scan()
    held_out = (manifest.numpy("split") == "train") & (manifest.numpy("pid") > 5)
    split = np.where(held_out, "val", manifest.numpy("split").astype(str))
    manifest.with_columns({"split": split.tolist()}).write(root)
    return root


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run commands in this process, one at a time, and list them; what configs say is read once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_files, "load_config", functools.cache(config_files.load_config))
    monkeypatch.setattr(stages, "load_config", config_files.load_config)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    ran: list[list[str]] = []

    def run(words: Sequence[str], environment: Mapping[str, str], log: Path, *, echo: bool) -> int:
        assert not echo
        for name, value in environment.items():
            monkeypatch.setitem(os.environ, name, value)
        ran.append(list(words))
        return main(words)

    monkeypatch.setattr(lab, "run_logged", run)
    return ran


@pytest.mark.slow
def test_rows_from_the_choice_to_the_tables(
    dataset: Path,
    world: Manifest,
    pipeline_folder: Path,
    tmp_path: Path,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(**{**vars(PLAN), "dataset": str(dataset)})

    def begin() -> evidence.Evidence:
        return evidence.Evidence(plan, pipeline_folder, world.root, tmp_path / "work", jobs=1)

    wanted: dict[float | None, tuple[str, ...]] = {FEW: ("scratch", FULL, *ABLATIONS)}
    with pytest.raises(UserError, match="not been chosen"):
        begin().run(wanted)
    begin().choose(QUESTIONS, START)
    assert not [words for words in commands if "--test_with=last" in words], "choosing reads no query"
    first = begin()
    outcomes = first.run(wanted)
    tests = [words for words in commands if "--test_with=last" in words]
    assert len(tests) == 2 + len(ABLATIONS), "one run of each row and seed reads query and gallery"
    text = first.report(outcomes)
    assert "| scratch |" in text and f"| {FULL} |" in text and "full beats scratch" in text
    assert "Renders, not Market-1501" in text
    count = len(commands)
    assert begin().report(begin().run(wanted)) == text
    assert len(commands) == count, "all of it is kept"

    fewer = begin().run({FEW: ("scratch",)})
    assert fewer == {FEW: {"scratch": outcomes[FEW]["scratch"]}}
    assert len(json.loads((tmp_path / "work/outcomes.json").read_text())["outcomes"]) == len(tests), "nothing is lost"

    # Another machine, to which nothing came but the choice and what the rows came to.
    (tmp_path / "sent").mkdir()
    for name in ("settings.json", "outcomes.json"):
        shutil.copy(tmp_path / "work" / name, tmp_path / "sent")
    other = evidence.Evidence(plan, pipeline_folder, world.root, tmp_path / "other", jobs=1)
    other.take(tmp_path / "sent")
    assert other.report(other.run(wanted)) == text, "hours of both machines are counted"
    started_again = evidence.Evidence(plan, pipeline_folder, world.root, tmp_path / "other", jobs=1)
    assert started_again.run(wanted) == outcomes
    assert len(commands) == count, "nothing is run again"

    tried = filters.Filters(begin(), seeds=(3,))
    measured = tried.run([filters.NONE, "any half, of twice as many"])
    assert all(0 <= values[0] <= 100 for values in measured.values())
    assert "| any half, of twice as many | " in (said := tried.table(measured)) and "| none | " in said
    assert len([words for words in commands if "--test_with=last" in words]) == len(tests), "it reads no query"
    shutil.copy(tmp_path / "other/outcomes.json", tmp_path / "sent")
    assert len(json.loads((tmp_path / "sent/outcomes.json").read_text())["outcomes"]) == len(tests)
    shutil.copytree(pipeline_folder, tmp_path / "base")  # the corpus is far away, and the text-to-image model names it
    write_json(tmp_path / "base/provenance.json", {"training_data": {"manifest": world.content_hash}})
    without = evidence.Evidence(plan, tmp_path / "base", None, tmp_path / "without", jobs=1)
    without.take(tmp_path / "sent")
    assert without.run(wanted) == outcomes
    with pytest.raises(UserError, match="--world"):
        without.run({FEW: (WORLD,)})
    with monkeypatch.context() as patched:  # rows are compared that were trained on one kind of device
        patched.setattr(evidence, "device_name", lambda: "another")
        with pytest.raises(UserError, match="belong to something else"):
            other.take(tmp_path / "sent")
    with monkeypatch.context() as patched:  # a config was changed since
        patched.setattr(evidence, "configs_key", lambda: "another")
        with pytest.raises(UserError, match="other inputs"):
            evidence.Evidence(plan, pipeline_folder, world.root, tmp_path / "third", jobs=1).take(tmp_path / "sent")
    (tmp_path / "sent/outcomes.json").write_text('{"outcomes": []}')
    with pytest.raises(UserError, match="cannot be read"):
        other.take(tmp_path / "sent")
    changed = evidence.Evidence(replace(plan, halved=2), pipeline_folder, world.root, tmp_path / "changed", jobs=1)
    with pytest.raises(UserError, match="other inputs"):
        changed.take(tmp_path / "sent")

    subset = Manifest.read(next((tmp_path / "work" / "subsets").glob("30pct-*")))
    assert set(subset.numpy("split")) == {"train"} and set(subset.numpy("pid")) == {2, 3, 4, 5}

    # Where somebody captions more than the subset, what was made from it is refused.
    everybody = Market1501(dataset).scan()[0]
    captioned = next((tmp_path / "work" / "steps").glob("caption-*"))
    everybody.filter(np.asarray(everybody.numpy("split") == "train")).write(captioned)
    with pytest.raises(RunError, match=r"its subset does not have|is unknown"):
        begin().run(wanted)


@pytest.mark.parametrize("missing", ["--world", "--pipeline", "choice"])
def test_what_is_missing_is_a_users_mistake(
    missing: str, world: Manifest, pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--world": str(world.root), "--pipeline": str(pipeline_folder)}
    if missing in given:
        given[missing] = str(tmp_path / "nowhere")
    words = [word for pair in given.items() for word in pair]
    assert evidence.main([*words, "--work", str(tmp_path / "work")]) == 2
    assert ("--choose" if missing == "choice" else "nowhere") in capsys.readouterr().err
