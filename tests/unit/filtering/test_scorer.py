"""The scorer through the command line: what it leaves, what a scored manifest says, and what can go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file

from diffreid_lightning.backbones import IdentityClassifier
from diffreid_lightning.cli import main
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering import copy_search
from diffreid_lightning.filtering.calibration import FoldNetworks
from diffreid_lightning.filtering.consistency import consistency
from diffreid_lightning.filtering.datamodule import ScoringDataModule
from diffreid_lightning.filtering.scorer import FoldNetwork, ReIDScorer, ScorerTraining
from diffreid_lightning.filtering.scorer_checkpoint import load_scorer
from diffreid_lightning.filtering.scorer_export import ScorerExport
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.reid.losses import CenterLoss, LabelSmoothedCrossEntropy
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.reid.supervised import SupervisedReID
from tests.fixtures.command_line import start
from tests.unit.filtering.conftest import PEOPLE, PER_PERSON, TINY, UNKNOWN, score_words

SIZE = (64, 32)


def test_a_fold_network_never_learns_from_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SupervisedReID, "training_step", lambda self, batch, index: torch.zeros(()))
    module = ScorerTraining("test_resnet", image_size=SIZE, calibration=FoldNetworks(2))
    module.classifier = IdentityClassifier(module.backbone.num_features, 3)
    module._add_fold_networks(2, 3)
    module._folds = torch.tensor([0, 1, 0, 1, 0, 1, -1])
    rows = torch.arange(7)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    images = torch.rand(7, 3, *SIZE, requires_grad=True)
    losses = []
    for fold, network in enumerate(module.fold_networks):
        with monkeypatch.context() as patch:  # the others see what they see, but say nothing
            for other in module.fold_networks:
                if other is not network:
                    patch.setattr(other, "forward", lambda seen, of=other: _detached(FoldNetwork.forward(of, seen)))
            loss = module.training_step(PersonBatch(images, labels, rows, rows, rows > 9), 0)
        (by_images,) = torch.autograd.grad(loss, images)
        moved = by_images.flatten(1).abs().amax(dim=1) > 0
        assert moved.tolist() == (module._folds != fold).tolist(), "from all images but those of its fold"
        losses.append(float(loss.detach()))
    assert len(set(losses)) == 1, "the loss is the sum over the networks, whoever learns"


def test_a_fold_network_has_losses_of_its_own_and_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ScorerTraining(
        "test_resnet", image_size=SIZE, losses=[LabelSmoothedCrossEntropy(), CenterLoss()], calibration=FoldNetworks(2)
    )
    for loss in module.losses:
        loss.build(module.backbone.num_features, 3)
    module._add_fold_networks(2, 3)
    centers = [each.losses[1].centers.data_ptr() for each in (module, *module.fold_networks)]
    assert len(set(centers)) == 3
    halves = property(lambda self: (self.num_features // 2,) * 2)
    monkeypatch.setattr(type(module.backbone), "parts", halves)
    outputs = FoldNetwork(module.backbone, module.neck, 3, module.losses)(torch.rand(2, 3, *SIZE))
    assert outputs.logits is not None and len(outputs.part_logits) == 2


def _detached(outputs: ReIDOutputs) -> ReIDOutputs:
    return ReIDOutputs(outputs.features.detach(), outputs.embeddings.detach(), outputs.logits.detach())


def test_a_batch_without_a_lesson_leaves_zero_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under several processes every parameter must have a gradient at every step."""
    monkeypatch.setattr(SupervisedReID, "training_step", lambda self, batch, index: torch.zeros(()))
    module = ScorerTraining("test_resnet", image_size=SIZE, calibration=FoldNetworks(2))
    module._add_fold_networks(2, 3)
    module._folds = torch.zeros(4, dtype=torch.int64)
    rows = torch.arange(4)
    loss = module.training_step(PersonBatch(torch.rand(4, 3, *SIZE), rows % 2, rows, rows, rows > 9), 0)
    loss.backward()
    trained = [parameter for parameter in module.fold_networks[0].parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in trained)
    assert any((parameter.grad != 0).any() for parameter in module.fold_networks[1].parameters() if parameter.grad is not None)  # fmt: skip # noqa: E501


def test_the_folder_holds_plain_tensors_and_json(scorer: Path) -> None:
    suffixes = {path.suffix for path in scorer.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".npy", ".parquet"}
    note = json.loads((scorer / "scorer.json").read_text())
    assert [tuple(key) for key in note["identities"]] == [("market1501", "train", pid) for pid in PEOPLE]
    calibration = note["calibration"]
    assert calibration["method"] == "FoldNetworks" and calibration["held_out_images"] == 24
    assert calibration["held_out_nll"][1] <= calibration["held_out_nll"][0]
    timm.create_model(f"local-dir:{scorer / 'backbone'}", pretrained=True)
    folder = load_scorer(scorer)
    assert folder.image_size == SIZE and folder.recognizer.centroids.norm(dim=1).allclose(torch.ones(4), atol=1e-5)


def test_every_row_has_scores_or_the_reason(scored: Path, generated: Path, scorer: Path) -> None:
    read, found = Manifest.read(generated), Manifest.read(scored)
    assert found.numpy("file_name").tolist() == read.numpy("file_name").tolist()
    (trained_on,) = json.loads((scorer / "scorer.json").read_text())["training"]["training_data"]["manifests"]
    assert found.parents == (read.content_hash, trained_on["manifest"]) and found.root == read.root
    problems = found.numpy("score_problem")
    pid = found.numpy("pid")
    cut = np.flatnonzero(pid == 2)[1]
    for row, problem in enumerate(problems):
        nan = [np.isnan(found.numpy(name)[row]) for name in ("confidence", "similarity", "margin")]
        assert all(nan) == any(nan) == (problem is not None)
        if row == cut:
            assert problem.startswith("unreadable image") and str(generated) not in problem
        elif pid[row] == UNKNOWN:
            assert problem == "the scorer does not know this identity"
        else:
            assert problem is None


def test_scores_are_those_of_the_image_alone(scored: Path, scorer: Path) -> None:
    """Whatever batch it came in: once more by hand, from the folder."""
    found = Manifest.read(scored)
    folder = load_scorer(scorer)
    row = 2 * PER_PERSON + 3
    view = evaluation_view(found.images.image(found.numpy("file_name")[row]), SIZE)[None].float() / 255
    by_hand = folder.recognizer(view, torch.tensor([PEOPLE.index(4)]))
    for name, value in by_hand._asdict().items():
        assert found.numpy(name)[row] == pytest.approx(float(value), abs=1e-4)


def test_a_copy_of_a_real_image_is_found_and_named(scored: Path, real: Path) -> None:
    found = Manifest.read(scored)
    copies = [index * PER_PERSON for index in range(len(PEOPLE))]
    assert (found.numpy("real_distance")[copies] == 0).all()
    assert found.numpy("nearest_real")[copies[1]] == "bounding_box_train/0003_c1s1_000000_00.jpg"
    assert set(found.numpy("nearest_real_source")[copies]) == {"market1501"}
    roots = json.loads((scored / "real_images.json").read_text())["roots"]
    assert roots == {"market1501": [str(real)]}
    thumbs = np.load(scored / "thumbnails.npy", allow_pickle=False)
    assert thumbs.shape == (len(found), 1536) and thumbs[0].any()


def test_changed_images_are_not_taken_for_those_that_were_scored(generated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(generated, tmp_path / "generated"))
    before = ScoringDataModule(str(folder)).cache_key
    name = Manifest.read(folder).table["file_name"][0].as_py()
    assert ScoringDataModule(str(folder)).cache_key == before
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    assert ScoringDataModule(str(folder)).cache_key != before


def test_a_killed_scoring_goes_on_to_the_same_bytes(
    score: Callable[..., int], scored: Path, generated: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    assert score(generated, part, "--trainer.limit_predict_batches=2") == 0
    assert not (part / "metadata.parquet").exists() and len(list((part / ".parts").glob("0*.parquet"))) == 2
    assert score(generated, part) == 0
    assert Manifest.read(part).content_hash == Manifest.read(scored).content_hash
    for name in ("thumbnails.npy", "features.npy"):
        assert (part / name).read_bytes() == (scored / name).read_bytes()
        assert not (part / f".{name}").exists()
    assert not (part / ".parts").exists()
    before = (part / "metadata.parquet").stat().st_mtime_ns
    assert score(generated, part) == 0
    assert (part / "metadata.parquet").stat().st_mtime_ns == before, "what is finished is not done again"


def test_images_are_compared_with_the_others_of_their_label(scored: Path, scorer: Path) -> None:
    """Once more by hand, from the folder; an image without a score supports nobody."""
    found, folder = Manifest.read(scored), load_scorer(scorer)
    known = [row for row, problem in enumerate(found.numpy("score_problem")) if problem is None]
    names, labels = found.numpy("file_name"), found.identities()[0]
    views = [evaluation_view(found.images.image(names[row]), SIZE) for row in known]
    features = folder.recognizer.embed(torch.stack(views).float() / 255)[0].numpy()
    directions = np.load(scored / "features.npy")[known]
    assert directions == pytest.approx(features / np.linalg.norm(features, axis=1, keepdims=True), abs=2e-3)
    expected = consistency(directions, labels[known])
    assert found.numpy("consistency")[known] == pytest.approx(expected.scores, abs=1e-6)
    others = np.setdiff1d(np.arange(len(found)), known)
    assert np.isnan(found.numpy("consistency")[others]).all() and (found.numpy("nearest_label")[others] == None).all()  # noqa: E711
    keys = [f"market1501-{key[2]:04d}" for key in found.identities()[1]]
    assert found.numpy("nearest_label")[known].tolist() == [keys[label] for label in expected.nearest]


def test_features_that_were_damaged_since_are_refused(
    score: Callable[..., int], generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    assert score(generated, part, "--trainer.limit_predict_batches=2") == 0
    np.lib.format.open_memmap(part / ".features.npy", "r+")[0, 0] = np.nan
    assert score(generated, part) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "features are not finite" in text and "score again" in text and not (part / "metadata.parquet").exists()


@pytest.mark.slow
def test_two_processes_score_as_one(scored: Path, scorer: Path, generated: Path, offline: Path, tmp_path: Path) -> None:
    words = score_words(generated, scorer, tmp_path / "two", tmp_path)
    process = start([*words, "--trainer.devices=2", "--trainer.strategy=auto"], offline, processes=2)
    output = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert Manifest.read(tmp_path / "two").content_hash == Manifest.read(scored).content_hash
    assert (tmp_path / "two" / "features.npy").read_bytes() == (scored / "features.npy").read_bytes()


def test_scores_of_an_earlier_version_are_not_taken_for_these(
    score: Callable[..., int], scored: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(scored, tmp_path / "old"))
    note = json.loads((old / "stage.json").read_text())
    (old / "stage.json").write_text(json.dumps({name: note[name] for name in note if name != "consistency"}))
    assert score(generated, old) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "results of other inputs or settings" in text and "remove this one" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--data.image_size=[128,64]",), "trained on images of another size"),
        (("--model.scorer=nowhere",), "There is no scorer"),
    ],
)
def test_unsuitable_scorers_are_refused(
    score: Callable[..., int], generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], expected: str,
) -> None:  # fmt: skip
    assert score(generated, tmp_path / "out", *words) == 2
    assert expected in capsys.readouterr().err


def test_nothing_to_score_is_refused(
    score: Callable[..., int], generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(generated)
    manifest.filter(manifest.numpy("pid") < 0).write(tmp_path / "empty")
    assert score(tmp_path / "empty", tmp_path / "out") == 2
    assert "no image to score" in capsys.readouterr().err


def test_real_images_are_made_ready_once(scorer: Path, generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ReIDScorer(str(scorer))
    ready = copy_search.precompute
    calls: list[int] = []
    monkeypatch.setattr(copy_search, "precompute", lambda thumbs: calls.append(len(thumbs)) or ready(thumbs))
    data = ScoringDataModule(str(generated), image_size=SIZE, batch_size=2, num_workers=0)
    for number in range(2):
        batch = data.load(number, range(2 * number, 2 * number + 2))
        module.predict_step(data.on_after_batch_transfer(batch, 0), number)
    assert calls == [len(module.folder.real.thumbnails)]


@pytest.mark.parametrize("damage", ["scorer.json", "identities.safetensors", "thumbnails.npy", "images.parquet"])
def test_a_damaged_scorer_is_refused(scorer: Path, tmp_path: Path, damage: str) -> None:
    copied = Path(shutil.copytree(scorer, tmp_path / "scorer"))
    (copied / damage).write_bytes((copied / damage).read_bytes()[:40])
    with pytest.raises(UserError):
        load_scorer(copied)
    (copied / damage).unlink()
    with pytest.raises(UserError, match="no scorer at"):
        load_scorer(copied)


def _note(folder: Path, **changed: Any) -> None:
    note = json.loads((folder / "scorer.json").read_text())
    (folder / "scorer.json").write_text(json.dumps({**note, **changed}))


def _tensors(folder: Path, **changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "identities.safetensors")
    save_file(
        {n: changed.get(n, torch.clone)(t).contiguous() for n, t in tensors.items()}, folder / "identities.safetensors"
    )


def _images(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.ParquetFile(folder / "images.parquet").read()), folder / "images.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _note(folder, identities=[["a", "b"]]),
        lambda folder: _note(folder, image_size=[64, "x"]),
        lambda folder: _note(folder, image_size=[64]),
        lambda folder: _note(folder, calibration={"temperature": 1.0}),
        lambda folder: _note(
            folder,
            calibration={"temperature": 1.0, "reason": None, "temperature_1_because_of_one_image": []},
        ),
        lambda folder: _note(folder, real_gap=[float("nan")]),
        lambda folder: _note(folder, image_roots=[]),
        lambda folder: _tensors(folder, centroids=lambda tensor: tensor[:1]),
        lambda folder: _tensors(folder, classifier=lambda tensor: tensor.to(torch.int64)),
        lambda folder: _tensors(folder, temperatures=lambda tensor: tensor[:, None]),
        lambda folder: _tensors(folder, centroids=lambda tensor: tensor * float("nan")),
        lambda folder: _images(folder, lambda table: table.drop_columns(["root"])),
        lambda folder: _images(folder, lambda table: table.slice(1)),
        lambda folder: np.save(folder / "thumbnails.npy", np.zeros((3, 4), np.float32)),
    ],
)
def test_parts_of_a_scorer_that_do_not_belong_together_are_refused(
    scorer: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    copied = Path(shutil.copytree(scorer, tmp_path / "scorer"))
    damage(copied)
    with pytest.raises(UserError, match="damaged") as caught:
        load_scorer(copied)
    assert caught.value.remedy and caught.value.found


def test_the_hash_follows_the_weights_and_not_the_place(scorer: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(scorer, tmp_path / "scorer"))
    note = json.loads((copied / "scorer.json").read_text())
    (copied / "scorer.json").write_text(json.dumps({**note, "image_roots": ["/elsewhere"]}))
    assert load_scorer(copied).content_hash == load_scorer(scorer).content_hash
    assert ReIDScorer(str(copied)).cache_key == ReIDScorer(str(scorer)).cache_key
    (copied / "scorer.json").write_text(json.dumps({**note, "flip_average": True}))
    assert load_scorer(copied).content_hash != load_scorer(scorer).content_hash


def test_scores_of_broken_weights_are_a_reason(scored: Path, scorer: Path, generated: Path) -> None:
    module = ReIDScorer(str(scorer))
    module.network.centroids.fill_(float("nan"))
    data = ScoringDataModule(str(generated), image_size=SIZE, batch_size=4, num_workers=0)
    rows = module.predict_step(data.on_after_batch_transfer(data.load(0, range(4)), 0), 0).rows
    assert rows["score_problem"].to_pylist()[0] == "the scores are not finite"
    assert rows["confidence"].null_count == 4


def test_a_scorer_continues_a_stopped_fit(offline: Path, real: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", "stages/score", f"--data.train={real}", *TINY, "--trainer.accelerator=cpu"]
    # A schedule over the number of epochs would differ between a run of one and a run of two.
    words += ["--data.sampler.init_args.identities_per_batch=4", "--model.scheduler=null", "--model.warmup_epochs=0"]
    stopped, whole = (f"--trainer.default_root_dir={tmp_path / name}" for name in ("stopped", "whole"))
    assert main([*words, stopped, "--trainer.max_epochs=1"]) == 0
    before = load_scorer(tmp_path / "stopped" / "fit-001" / "scorer").content_hash
    assert main([*words, stopped, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0
    assert main([*words, whole, "--trainer.max_epochs=2"]) == 0
    one, other = (load_scorer(tmp_path / run / "fit-001" / "scorer") for run in ("stopped", "whole"))
    assert one.content_hash == other.content_hash != before
    assert one.note["calibration"] == other.note["calibration"]


def test_only_a_scorer_can_be_exported_as_one(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", f"--data.train={real}", *TINY, "--model.backbone=test_resnet", "--trainer.accelerator=cpu"]
    words += ["--data.sampler.init_args.identities_per_batch=2", "--trainer.callbacks=[ScorerExport]"]
    assert main([*words, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]) == 2
    assert "is not a scorer" in capsys.readouterr().err
    trainer: Any = None
    with pytest.raises(UserError, match="LightningModule is not a scorer"):
        ScorerExport().on_fit_start(trainer, LightningModule())


def test_scores_are_in_single_precision_whatever_the_trainer_made_of_the_network(scorer: Path) -> None:
    recognizer = load_scorer(scorer).recognizer.eval()
    images, identities = torch.rand(2, 3, *SIZE), torch.tensor([0, 1])
    with torch.no_grad():
        wanted = recognizer(images, identities)
        found = recognizer.to(torch.bfloat16)(images, identities)
    for one, two in zip(wanted, found, strict=True):
        assert two.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0.05, rtol=0)


def test_mixed_precision_ends_before_the_scores(scorer: Path) -> None:
    recognizer = load_scorer(scorer).recognizer
    images, identities = torch.rand(4, 3, *SIZE), torch.arange(4) % 2
    with torch.no_grad():
        outputs = recognizer.embed(images)
        wanted = recognizer.score(*outputs, identities)
        with torch.autocast("cpu", torch.bfloat16):  # as Lightning's bf16-mixed computes each step
            found = recognizer.score(*outputs, identities)
    for one, two in zip(wanted, found, strict=True):
        assert torch.equal(one, two)
