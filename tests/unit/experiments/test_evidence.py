"""The parts of the comparison: kept steps, the search for settings, statistics, equal counts, leaks, tables."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from diffreid_lightning import config_files
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.filtering.rules import Selection
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import find_manifest_hashes
from experiments.evidence import lab, settings, tables
from experiments.evidence.ancestry import Training, refuse_leaks, refuse_strange_training
from experiments.evidence.lab import OUT, Lab
from experiments.evidence.labels import Shown, alike, consistent, labels_table, people_table
from experiments.evidence.outcomes import Outcome, val_curve
from experiments.evidence.plan import epochs_for, validation_interval
from experiments.evidence.rows import FEW, FULL, ROWS, TABLES
from experiments.evidence.selection import EqualCount
from experiments.evidence.settings import Question, Settings, search
from experiments.evidence.stages import _prior_sampling
from experiments.evidence.statistics import paired, reached

GENERATED = {"source_pid": 1, "prompt": "a person", "attributes": "{}", "seed": 0, "generator": "f" * 64}

# Kept steps.


class Command:
    """Stands in for the commands: notes what ran, fails where told."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.code = 0
        self.wait = threading.Event()
        self.wait.set()

    def __call__(self, words: Sequence[str], environment: Mapping[str, str], log: Path, *, echo: bool) -> int:
        self.ran.append(list(words))
        log.write_text("error: it was refused\n", encoding="utf-8")
        self.wait.wait(10)
        return self.code


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    stand_in = Command()
    monkeypatch.setattr(lab, "run_logged", stand_in)
    return stand_in


def test_a_step_runs_once(tmp_path: Path, command: Command) -> None:
    folder = Lab(tmp_path, {}).step("a", ["fit", f"--to={OUT}/b"])
    assert command.ran == [["fit", f"--to={folder}/b"]]
    assert Lab(tmp_path, {}).step("a", ["fit", f"--to={OUT}/b"]) == folder
    assert Lab(tmp_path, {}).step("a", ["fit", f"--to={OUT}/c"]) != folder
    assert len(command.ran) == 2
    assert set(Lab(tmp_path, {}).seconds()) == {path.name for path in (tmp_path / "steps").iterdir()}


def test_an_interrupted_fit_goes_on_and_an_interrupted_predict_is_asked_again(tmp_path: Path, command: Command) -> None:
    command.code = 1
    for words, added in ((["fit"], ["--ckpt_path", "last"]), (["predict"], [])):
        with pytest.raises(RunError, match="exit code 1"):
            Lab(tmp_path, {}).step("a", words)
        with pytest.raises(RunError, match="it was refused"):
            Lab(tmp_path, {}).step("a", words)
        assert command.ran[-2:] == [words, words + added]
    command.code = 2
    with pytest.raises(UserError):
        Lab(tmp_path, {}).step("a", ["predict"])


def test_threads_that_ask_for_the_same_step_share_it(tmp_path: Path, command: Command) -> None:
    command.wait.clear()
    kept = Lab(tmp_path, {})
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(kept.step, "a", ["fit"]) for _ in range(4)]
        command.wait.set()
        assert len({future.result() for future in futures}) == 1
    assert len(command.ran) == 1


def test_a_step_is_known_by_contents_and_not_by_places(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("seed_everything: 0\n", encoding="utf-8")

    def key(work: str, base: str, content: str = "1", word: str = "x") -> str:
        made = Lab(tmp_path / work, {base: content})
        return made.key(["fit", "--config", str(config), f"--from={made.work}/steps/b", f"--base={base}", word])

    first = key("here", "/models/base")
    assert key("there", "/elsewhere/model") == first
    assert key("here", "/models/base", content="2") != first
    assert key("here", "/models/base", word="y") != first
    config.write_text("# a remark\nseed_everything: 0\n", encoding="utf-8")
    assert key("here", "/models/base") == first
    config.write_text("seed_everything: 1\n", encoding="utf-8")
    assert key("here", "/models/base") != first


def test_a_step_is_known_by_what_lies_below_its_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below, mine = tmp_path / "default.yaml", tmp_path / "mine.yaml"
    (tmp_path / "stages").mkdir()
    for file in (below, mine, tmp_path / "stages/select.yaml"):
        file.write_text("view: [a, b]\n", encoding="utf-8")
    monkeypatch.setattr(config_files, "configs_folder", lambda: tmp_path)
    commands = (["fit"], ["select"], ["predict", "--data.vocabulary", str(mine)])

    def keys() -> list[str]:
        return [Lab(tmp_path / "work", {}).key(words) for words in commands]

    first = keys()
    assert keys() == first
    for file, others in ((below, [0, 2]), (tmp_path / "stages/select.yaml", [1]), (mine, [2])):
        before = keys()
        file.write_text("view: [a, c]\n", encoding="utf-8")
        assert [place for place, (old, new) in enumerate(zip(before, keys(), strict=True)) if old != new] == others


# The choice.


def test_settings_are_chosen_one_after_the_other() -> None:
    asked: list[tuple[str, list[Settings]]] = []

    def measure(row: str, tried: Sequence[Settings]) -> list[float]:
        asked.append((row, list(tried)))
        return [-abs(each.threshold - 0.3) - abs(each.tune_iterations - 400) for each in tried]

    questions = (Question("threshold", "a", (0.1, 0.3, 0.5)), Question("tune_iterations", "b", (100, 400, 100)))
    chosen, trials = search(Settings(threshold=0.9), questions, measure)
    assert (chosen.threshold, chosen.tune_iterations) == (0.3, 400)
    assert [row for row, _ in asked] == ["a", "b"]
    assert {each.threshold for each in asked[1][1]} == {0.3}, "what was chosen before stays"
    assert [trial.chosen for trial in trials] == [False, True, False, False, True, False]
    same, _ = search(Settings(), (Question("threshold", "a", (0.2, 0.4)),), measure)
    assert same.threshold == 0.2, "of equals the first"


def test_every_question_is_about_a_setting_and_a_row() -> None:
    for setting, row, candidates in settings.QUESTIONS:
        assert row in ROWS
        assert getattr(Settings(), setting) in candidates
    assert len(next(q for q in settings.QUESTIONS if q.setting == "scratch_iterations").candidates) == 3


def test_a_choice_is_kept_with_what_it_was_made_for(tmp_path: Path) -> None:
    file = tmp_path / settings.FILE
    with pytest.raises(UserError, match="--choose"):
        settings.load(file, {})
    chosen = replace(Settings(), generated_share=0.5)
    trials = [settings.Trial("generated_share", None, 10.0, False), settings.Trial("generated_share", 0.5, 11.0, True)]
    settings.save(file, chosen, trials, {"world": "a"})
    assert settings.load(file, {"world": "a"}) == (chosen, trials)
    with pytest.raises(UserError, match="other inputs"):
        settings.load(file, {"world": "b"})
    file.write_text('{"settings": {}}', encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        settings.load(file, {"world": "a"})


# Numbers.


def test_paired_differences_have_students_interval() -> None:
    found = paired([3.0, 5.0, 4.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    # differences 2, 3, 1, 2, 2: mean 2, deviation 0.7071, t(0.975, 4) = 2.7764
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(2.7764 * 0.70711 / math.sqrt(5), rel=1e-4)
    assert str(found) == "+2.0 (+1.1 to +2.9)"
    assert math.isnan(paired([1.0], [0.5]).low)
    with pytest.raises(ValueError, match="one value per seed"):
        paired([], [])


def test_a_curve_reaches_a_height_or_does_not() -> None:
    curve = ((2, 10.0), (4, 20.0), (6, 15.0), (8, 25.0))
    assert reached(curve, 20.0) == 4
    assert reached(curve, 21.0) == 8
    assert reached(curve, 30.0) is None


def test_epochs_come_nearest_to_the_iterations_and_end_with_a_validation() -> None:
    for iterations in (1, 10, 95, 400):
        for batches in (1, 7, 10, 400, 1000):
            epochs = epochs_for(iterations, batches)
            assert epochs >= 1
            assert epochs == 1 or abs(epochs * batches - iterations) <= batches / 2
            interval = validation_interval(epochs, 20)
            assert epochs % interval == 0
            assert epochs // interval >= min(epochs, 20)


def test_the_curve_is_that_of_the_last_attempt(tmp_path: Path) -> None:
    for attempt, text in enumerate(("epoch,val/mAP\n1,5.0\n", "epoch,train/loss,val/mAP\n0,1,\n0,,10.0\n1,,20.0\n"), 1):
        folder = tmp_path / "fit-001" / "metrics" / f"attempt-{attempt}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text, encoding="utf-8")
    assert val_curve(tmp_path) == ((1, 10.0), (2, 20.0))
    with pytest.raises(RunError, match="no validation"):
        val_curve(tmp_path / "elsewhere")


# Equal counts.


def test_everybody_keeps_equally_many_in_the_order_asked_for(tmp_path: Path) -> None:
    confidence = [0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.3]
    rows = Manifest.from_columns(
        tmp_path,
        {
            "file_name": [f"{number}.png" for number in range(7)], "source": "toy", "partition": "train",
            "pid": [1, 1, 1, 1, 2, 2, 2], "camid": 1, "split": "generated", "role": "identity",
            "confidence": confidence, **GENERATED,
        },
    )  # fmt: skip

    def kept(order: str, seed: int = 0) -> set[float]:
        selection = Selection(rows, lambda: np.empty((0, 0), np.uint8))
        EqualCount(2, order, seed=seed).apply(selection)  # type: ignore[arg-type]
        assert np.bincount(rows.numpy("pid")[selection.kept]).tolist() == [0, 2, 2]
        return {confidence[row] for row in np.flatnonzero(selection.kept)}

    assert kept("best") == {0.9, 0.7, 0.8, 0.3}
    assert kept("worst") == {0.1, 0.5, 0.2, 0.3}
    assert kept("random") == kept("random")
    assert len({frozenset(kept("random", seed)) for seed in range(20)}) > 3
    with pytest.raises(UserError, match="1 or more"):
        EqualCount(0)


# Leaks.


def write_rows(folder: Path, names: Sequence[str], split: str = "train", parents: Sequence[str] = ()) -> Manifest:
    columns = {"file_name": list(names), "source": "toy", "partition": "train", "pid": 1, "camid": 1, "split": split}
    more = GENERATED if split == "generated" else {}
    Manifest.from_columns(folder, {**columns, **more, "role": "identity"}, parents=parents).write(folder)
    return Manifest.read(folder)


def test_both_kinds_of_prior_images_are_drawn_alike() -> None:
    shipped = yaml.safe_load((Path(__file__).parents[3] / "configs/stages/personalize.yaml").read_text())
    settings = shipped["data"]["init_args"]["prior"]["init_args"]
    assert _prior_sampling() == {name: settings[name] for name in ("steps", "guidance", "scheduler")}
    assert settings["guidance"] == 1.0


def test_ancestors_are_followed_to_the_training_rows(tmp_path: Path) -> None:
    allowed = write_rows(tmp_path / "subset", ["a.png", "b.png"])
    captioned = write_rows(tmp_path / "captioned", ["a.png"], parents=[allowed.content_hash])
    generated = write_rows(tmp_path / "generated", ["g.png"], "generated", [captioned.content_hash])
    write_rows(tmp_path / "selected", ["h.png"], "generated", [generated.content_hash])
    stages = [tmp_path / name for name in ("subset", "captioned", "generated")]
    note = tmp_path / "note.json"
    note.write_text(json.dumps({"training": {"manifests": [{"manifest": captioned.content_hash}]}}), encoding="utf-8")
    refuse_leaks(tmp_path / "selected", stages, [note], allowed)
    with pytest.raises(RunError, match="unknown"):
        refuse_leaks(tmp_path / "selected", [stages[0], stages[2]], [note], allowed)
    more = write_rows(tmp_path / "more", ["a.png", "query.png"])
    note.write_text(json.dumps({"manifest": more.content_hash}), encoding="utf-8")
    with pytest.raises(RunError, match="its subset does not have"):
        refuse_leaks(tmp_path / "selected", [*stages, tmp_path / "more"], [note], allowed)
    note.write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="does not say"):
        refuse_leaks(tmp_path / "selected", stages, [note], allowed)
    assert list(find_manifest_hashes({"a": [{"manifest": "x"}, {"b": {"manifest": "y"}}], "manifest": 3})) == ["x", "y"]


def test_a_network_that_saw_something_else_is_refused(tmp_path: Path) -> None:
    def write_backbone(name: str, manifests: Sequence[str], start: Path | str | None) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        training = {"training_data": {"manifests": [{"manifest": each} for each in manifests]}}
        note = {"training": {**training, "init_from": None if start is None else str(start)}}
        (folder / "provenance.json").write_text(json.dumps(note), encoding="utf-8")
        return folder

    first = write_backbone("made/fit-001/backbone", ["made"], "imagenet")
    tuned = write_backbone("tuned/fit-001/backbone", ["subset"], "/moved/since/made/fit-001/backbone")
    other = write_backbone("b/fit-001/backbone", ["subset", "all"], None)
    untold = write_backbone("c/fit-001/backbone", [], None)
    scratch = write_backbone("d/fit-001/backbone", ["subset"], None)
    on_made = write_backbone("e/fit-001/backbone", ["made"], None)
    refuse_strange_training([Training(tuned, ["subset"], first), Training(first, ["made", "subset"], "imagenet")])
    refuse_strange_training([Training(scratch, ["subset"], None)])
    for strange in (first, other, untold, on_made):
        with pytest.raises(RunError, match="may not see"):
            refuse_strange_training([Training(strange, ["subset"], None)])
    for backbone, start in ((first, None), (first, tuned), (tuned, None), (scratch, "imagenet"), (scratch, first)):
        with pytest.raises(RunError, match="did not start"):
            refuse_strange_training([Training(backbone, ["subset", "made"], start)])


# Tables.


def outcomes(labels: Sequence[str], first: float) -> dict[str, list[Outcome]]:
    made: dict[str, list[Outcome]] = {}
    for number, label in enumerate(labels):
        height = first + number
        curve = ((1, height / 2), (2, height))
        made[label] = [Outcome(height + seed, 2 * height, curve) for seed in range(3)]
    return made


def test_rows_compare_within_their_network_and_goals_are_measured() -> None:
    found = {share: outcomes(labels, 20.0) for share, labels in TABLES.items()}
    text = tables.rows_table("320 images", found[FEW])
    assert "Fine-tuned on 320 images" in text
    for label in TABLES[FEW]:
        assert f"| {label} |" in text
    scratch = next(line for line in text.splitlines() if line.startswith("| scratch |"))
    assert scratch == "| scratch | 21.0 | 40.0 |  | -11.0 (-11.0 to -11.0) |"
    imagenet = next(line for line in text.splitlines() if line.startswith("| large: ImageNet |"))
    assert imagenet.split("|")[4].strip() == ""
    goals = tables.goals_table(found)
    assert f"| full beats scratch by at least 5 mAP (30pct) | {tables.paired([11], [0]).mean:+.1f} " in goals
    assert "| top-scored beats random (30pct) | -1.0 (-1.0 to -1.0) | no |" in goals
    assert "not worse than scratch on all images, but for 1 mAP (all) | +2.0" in goals
    curves = tables.convergence_table(found[FEW])
    assert f"| {FULL} | 3 of 3 | 2 | 2 |" in curves
    assert "commands" in tables.cost_table({"fit-a-1": 3600.0, "fit-b-2": 1800.0})
    assert "| fit | 2 | 1.50 |" in tables.cost_table({"fit-a-1": 3600.0, "fit-b-2": 1800.0})


def test_a_goal_is_undecided_while_its_interval_leaves_both() -> None:
    goal = tables.Goal("", FULL, "scratch", FEW, least=5.0)
    found = [tables.paired([5.5, 5.4, 5.6], [0, 0, 0]), tables.paired([4, 8, 9], [0, 0, 0]), tables.paired([4], [0])]
    assert [goal.verdict(each) for each in found] == ["yes", "undecided", "undecided"], "one seed says nothing"


def test_every_goal_is_about_rows_of_its_table() -> None:
    for goal in tables.GOALS:
        assert {goal.first, goal.second} <= set(TABLES[goal.share])


# Without labels.


def test_momentum_contrast_learns_without_labels() -> None:
    pytest.importorskip("lightly")
    from diffreid_lightning.reid.person_images import PersonBatch
    from experiments.evidence.self_supervised import MomentumContrast, TwoViews, UnlabeledSampler

    torch.manual_seed(0)
    module = MomentumContrast("test_resnet", (32, 16), memory=16)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    assert {id(p) for p in module.slow.parameters()}.isdisjoint(
        id(p) for group in optimizer.param_groups for p in group["params"]
    )
    images = torch.rand(8, 2, 3, 32, 16)
    batch = PersonBatch(images, *(torch.zeros(8, dtype=torch.int64) for _ in range(4)))
    before = [p.clone() for p in module.slow.parameters()]
    losses = []
    for number in range(3):
        loss = module.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert all(map(math.isfinite, losses))
    moved = [float((new - old).abs().max()) for new, old in zip(module.slow.parameters(), before, strict=True)]
    assert 0 < max(moved) < 0.1, "the slow network follows slowly"

    from PIL import Image

    picture = Image.effect_noise((16, 32), 50).convert("RGB")
    views = TwoViews(pad=2, erasing=0.0)(picture, (32, 16), seed=3)
    assert views.shape == (2, 3, 32, 16) and not torch.equal(views[0], views[1])
    assert torch.equal(views, TwoViews(pad=2, erasing=0.0)(picture, (32, 16), seed=3))
    rows = [draw.row for draw in UnlabeledSampler([0] * 10, batch_size=4)]
    assert len(rows) == len(set(rows)) == 8


# What the labels mean.


def test_a_label_is_consistent_whoever_its_images_show() -> None:
    towards = torch.eye(3)
    # Label 0 shows one person, label 1 another; one image of label 1 shows label 0's.
    features = torch.nn.functional.normalize(
        torch.stack([towards[0] + 0.1 * towards[2], towards[0], towards[0], towards[1], towards[1], towards[0]]), dim=1
    )
    whose = torch.tensor([0, 0, 0, 1, 1, 1])
    assert consistent(features, whose).tolist() == [True, True, True, True, True, False]
    pairs = [float(features[a] @ features[b]) for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))]
    expected = (np.mean(pairs[:3]) + np.mean(pairs[3:])) / 2
    assert alike(features, whose) == pytest.approx(expected, abs=1e-6)
    assert alike(features[[0, 1, 3]], whose[[0, 1, 3]]) == pytest.approx(pairs[0], abs=1e-6), "one image has no pair"


def test_subsets_are_described_by_the_images_they_hold(tmp_path: Path) -> None:
    generated = write_rows(tmp_path, ["a.png", "b.png", "c.png", "d.png"], "generated")
    shown = Shown(torch.eye(4), torch.tensor([True, True, False, False]))
    half = generated.filter(np.array([True, False, True, False]))
    text = labels_table(generated, shown, {"all": generated, "half": half})
    assert "| all | 4 | 50.0 | 100.0 | 0.000 |" in text and "| half | 2 | 50.0 |" in text
    only = generated.filter(np.array([True, True, False, False]))
    assert "| only | 2 | 100.0 |" in labels_table(generated, shown, {"only": only})
    assert "| 40 to 70 % | 1 | 100.0 | 0.000 |" in people_table(generated, shown)
