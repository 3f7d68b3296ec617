"""Train on images without labels through the command line: kill, two processes, shuffled labels, a folder of crops."""

from __future__ import annotations

import csv
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffreid_lightning.datasets import Market1501
from diffreid_lightning.unsupervised.callbacks import ClusterReport
from diffreid_lightning.unsupervised.cluster_sampler import ClusterSampler
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule
from tests.fixtures import memory_recorder
from tests.fixtures.command_line import start
from tests.fixtures.dataset_layouts import picture, write_market1501

Command = Callable[..., int]

#: Eight people of six images in a color each: clusters follow the colors even for a random network.
TINY = (
    "--config=recipes/usl",
    "--data.image_size=[64,32]",
    "--data.num_workers=0",
    "--data.sampler.init_args.clusters_per_batch=2",
    "--data.sampler.init_args.images_per_cluster=2",
    "--data.sampler.init_args.batches=3",
    "--model.clusterer.init_args.distance={class_path: JaccardDistance, init_args: {k1: 4, k2: 2}}",
    "--model.clusterer.init_args.eps=0.5",
    "--trainer.accelerator=cpu",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.enable_progress_bar=false",
    "--trainer.default_root_dir=runs",
)


def saved(folder: Path) -> dict[str, Any]:
    """Return weights and clusters of a run's last checkpoint."""
    checkpoint: dict[str, Any] = torch.load(folder / "runs/fit-001/checkpoints/last.ckpt", weights_only=True)
    return {**checkpoint["state_dict"], "clusters": checkpoint["pseudo_labels"]}


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[name], two[name]) for name in one if isinstance(one[name], torch.Tensor)
    )


MODELS = {
    "memory": [],
    "mutual teaching": ["--config=recipes/mutual_teaching"],
    "joint": ["--config=recipes/joint_adaptation"],
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_killed_run_goes_on_with_the_same_clusters_to_the_same_weights(
    model: str, command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", TINY[0], *MODELS[model], *TINY[1:], f"--data.target={market}", "--test_with=none"]
    if model == "joint":
        words += [f"--data.source={write_market1501(tmp_path / 'source', train_ids=range(20, 28))}"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    monkeypatch.chdir(whole)
    epochs = 3 if model == "memory" else 2
    assert command(*words, f"--trainer.max_epochs={epochs}") == 0

    monkeypatch.chdir(cut)
    if model == "memory":
        process = start([*words, "--trainer.max_epochs=3", "--trainer.logger=false"], cut)
        last, deadline = cut / "runs/fit-001/checkpoints/last.ckpt", time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert torch.load(last, weights_only=True)["epoch"] < 2, "the kill came too late to test anything"
    else:
        assert command(*words, "--trainer.max_epochs=1") == 0
    assert command(*words, f"--trainer.max_epochs={epochs}", "--ckpt_path=last") == 0
    assert same(saved(whole), saved(cut))
    (metrics,) = (whole / "runs/fit-001/metrics").glob("**/metrics.csv")
    logged = [row for row in csv.DictReader(metrics.open()) if row["clusters/ari"]]
    assert len(logged) == epochs
    assert all(float(row["clusters/count"]) >= 2 and float(row["clusters/nmi"]) <= 1 for row in logged)


def test_the_labels_of_the_target_change_nothing(command: Command, tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 10), cameras=(1, 2, 3))
    manifest, _ = Market1501(root).scan()
    pids = manifest.numpy("pid").copy()
    train = np.flatnonzero(manifest.numpy("split") == "train")
    pids[train] = np.random.default_rng(0).permutation(pids[train])
    results = []
    for name, column in (("right", manifest.numpy("pid")), ("shuffled", pids)):
        path = root / f"{name}.parquet"
        manifest.with_columns({"pid": column.tolist()}).write(root)
        (root / "metadata.parquet").rename(path)
        words = [f"--data.target={path}", f"--trainer.default_root_dir=runs/{name}", "--test_with=none"]
        assert command("fit", *TINY, *words, "--trainer.max_epochs=2") == 0
        checkpoint = torch.load(f"runs/{name}/fit-001/checkpoints/last.ckpt", weights_only=True)
        results.append({**checkpoint["state_dict"], "clusters": checkpoint["pseudo_labels"]})
    assert same(*results)


@pytest.mark.slow
def test_two_processes_have_one_memory_that_of_accumulated_batches(
    command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", *TINY, f"--data.target={market}", "--test_with=none", "--trainer.max_epochs=1"]
    shutil.copy(memory_recorder.__file__, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words += ["--trainer.callbacks+=memory_recorder.MemoryRecorder", "--trainer.logger=false"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.default_root_dir=two"]
    process = start([*words, *two], tmp_path, processes=2)
    output = process.communicate(timeout=300)
    assert process.returncode == 0, output
    one = [
        "--trainer.accumulate_grad_batches=2",
        "--data.sampler.init_args.batches=6",
        "--trainer.default_root_dir=one",
    ]
    assert command(*words, *one, "--trainer.devices=1") == 0
    first, second, alone = (
        torch.load(next((tmp_path / root).rglob(f"memory_{rank}.pt")), weights_only=True)
        for root, rank in (("two", 0), ("two", 1), ("one", 0))
    )
    for root in ("one", "two"):
        assert torch.load(tmp_path / root / "fit-001/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert torch.equal(first["memory"], second["memory"])
    assert torch.equal(first["clusters"], second["clusters"])
    assert torch.equal(first["clusters"], alone["clusters"])
    torch.testing.assert_close(first["memory"], alone["memory"], atol=1e-4, rtol=1e-4)
    for name, weight in first["weights"].items():
        torch.testing.assert_close(weight, alone["weights"][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("cameras", [3, 0])
def test_a_folder_of_crops_is_adapted_to_and_its_clusters_are_shown(
    cameras: int,
    command: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"{pid:02}_{shot}.jpg" for pid in range(6) for shot in range(5)]
    if cameras:
        names = [f"door{int(name[:2]) % cameras}/{name}" for name in names]
    random.Random(0).shuffle(names)
    for name in names:
        file = tmp_path / "crops" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pid, shot = (int(part) for part in file.stem.split("_"))
        file.write_bytes(picture(pid + 1, 1, shot))
    assert command("fit", *TINY, "--data.target=crops", "--trainer.max_epochs=1") == 0
    run = tmp_path / "runs/fit-001"
    table = list(csv.DictReader((run / "clusters.csv").open()))
    assert {row["file_name"] for row in table} == set(names)
    assert {row["camera"] for row in table} == ({"0", "1", "2"} if cameras else {""})
    assert f"cameras {'from the folders (30 images, 3 cameras)' if cameras else 'unknown (30 images)'}" in caplog.text
    assert f"search QUERY GALLERY --model {Path('runs/fit-001')}" in caplog.text
    assert len({row["cluster"] for row in table} - {"-1"}) >= 2
    with Image.open(run / "clusters.png") as sheet:
        assert sheet.width > 200
    assert (run / "backbone/model.safetensors").exists()
    assert command("thresholds", run) == 2
    error = capsys.readouterr().err
    assert "held nobody out" in error and "--images PATH" in error and "val_share" not in error.partition("found")[2]


def test_two_folders_of_crops_have_cameras_of_their_own(tmp_path: Path) -> None:
    for number in range(12):
        file = tmp_path / f"{'one' if number < 6 else 'two'}/c{number % 2}_{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture(number, 1, 0))
    data = UnlabeledDataModule([str(tmp_path / "one"), str(tmp_path / "two")], image_size=(64, 32))
    assert len(data.train_set) == 12 and len(set(data.camids.tolist())) == 4
    assert data.true_labels() is None, "folders are no people"
    stub: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), datamodule=data, loggers=[])
    module: Any = SimpleNamespace(labels=np.arange(12) // 4)
    ClusterReport().on_fit_end(stub, module)
    table = list(csv.DictReader((tmp_path / "clusters.csv").open()))
    assert all((Path(row["root"]) / row["file_name"]).is_file() for row in table) and len(table) == 12


MISTAKES = {
    "an average": (["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"], "MutualMeanTeaching"),
    "overfitting": (["--trainer.overfit_batches=2"], "limit_train_batches"),
    "no clusters": (["--model.clusterer.init_args.min_samples=40"], "lower --model.clusterer.min_samples (40)"),
    "one cluster": (["--model.clusterer.distance=JaccardDistance", "--model.clusterer.eps=0.9"], "distance.k1 first"),
    "one mean": (["--model.clusterer=KMeans", "--model.clusterer.clusters=1"], "raise --model.clusterer.clusters (1)"),
    "a classifier": (["--model.losses=[LabelSmoothedCrossEntropy]"], "use ClusterMemory"),
    "labeled data": (["--data=ReIDDataModule"], "use --data UnlabeledDataModule"),
    "persons": (["--data.sampler=PKSampler"], "use ClusterSampler"),
    "a source": (["--data.source=miniperson:station"], "use --model JointAdaptation"),
    "no source": (["--config=recipes/joint_adaptation"], "--data.source"),
}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_schedule_in_steps_knows_the_number_of_batches(
    workers: int, command: Command, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader is made before there are clusters, and with workers batches are drawn at once."""
    clusters: list[int] = []

    def draw(sampler: ClusterSampler) -> Iterator[int]:
        clusters.append(len(set(sampler.labels)))
        return iter_of(sampler)

    iter_of = ClusterSampler.__iter__
    monkeypatch.setattr(ClusterSampler, "__iter__", draw)
    words = ["--model.scheduler_interval=step", "--model.warmup_epochs=1", "--trainer.max_epochs=1"]
    words.append(f"--data.num_workers={workers}")
    assert command("fit", *TINY, f"--data.target={market}", *words, "--test_with=none") == 0
    assert clusters[-1] > 1


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered(
    mistake: str, command: Command, market: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, answer = MISTAKES[mistake]
    target = [] if mistake == "labeled data" else [f"--data.target={market}"]
    rest = [f"--data.train={market}"] if mistake == "labeled data" else []
    replaced = {"labeled data": "--data", "persons": "--data.sampler"}.get(mistake, "none")
    replaced = "--model.clusterer" if mistake.startswith("one ") else replaced
    base = [word for word in TINY if not word.startswith(replaced)]
    assert command("fit", *base[:1], *words, *base[1:], *target, *rest, "--trainer.max_epochs=1") == 2
    said = capsys.readouterr().err
    assert answer in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("model", "data", "answer"),
    [
        ("SupervisedReID", ["UnlabeledDataModule", "--data.target=miniperson"], "use --model UnsupervisedReID"),
        ("JointAdaptation", ["PersonalizationDataModule", "--data.source={market}"], "use --data UnlabeledDataModule"),
    ],
)
def test_a_model_on_data_of_another_kind_is_refused(
    model: str, data: list[str], answer: str, command: Command, market: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(market=market) for word in data[1:]]
    sizes = ["--data.image_size=[32,16]", "--trainer.max_steps=1"]
    assert command("fit", f"--model={model}", f"--data={data[0]}", *words, *sizes) == 2
    assert answer in " ".join(capsys.readouterr().err.split())
