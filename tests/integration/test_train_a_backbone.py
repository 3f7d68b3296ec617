"""The main job through the real command line: fit, what it leaves behind, and evaluating it again."""

from __future__ import annotations

import csv
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from diffreid_lightning.datasets.samplers import PKSampler
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.run_summary import read_summary
from diffreid_lightning.storage import locks
from tests.fixtures import dataset_layouts
from tests.fixtures.command_line import TINY
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]


def test_fit_leaves_numbers_weights_config_and_a_wandb_run(evaluated: Path) -> None:
    run = evaluated / "reid/fit-001"

    with (run / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["stage"] == "test"
    assert 0 < float(row["mAP"]) <= 100

    (record,) = runs_under(run)
    wandb = read_run(record)
    assert wandb["project"] == "diffreid"
    assert wandb["history"]["test/mAP"] == [pytest.approx(float(row["mAP"]), abs=1e-3)]
    assert wandb["history"]["test/rank1"] == [pytest.approx(float(row["Rank-1"]), abs=1e-3)]
    assert len(wandb["history"]["val/mAP"]) == 2
    assert wandb["history"]["test/rank_lists/_type"] == ["table-file"]
    assert wandb["config"]["model"]["init_args"]["backbone"] == "test_resnet"
    assert wandb["summary"]["fit/images_per_second"] > 0
    assert wandb["summary"]["fit/peak_memory_gib"] > 0.1

    for name in ("last", "best"):
        checkpoint = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
        assert "classifier.weight" in checkpoint["state_dict"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"] == "test_resnet"
    assert Image.open(run / "rank_lists_test.png").width > 100
    model = timm.create_model(f"local-dir:{run / 'backbone'}", pretrained=True)
    assert model(torch.zeros(1, 3, 64, 32)).shape == (1, model.num_features)
    assert list((run / "metrics/attempt-1").glob("metrics.csv"))


def test_a_run_that_another_process_is_at_is_not_gone_on_with(
    command: Command, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", f"--data.train={market}", *TINY, "--test_with=none", "--trainer.max_epochs=1")
    assert command(*words) == 0
    run = tmp_path / "runs/reid/fit-001"
    held = locks.take(run / ".lock")
    assert held is not None
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert command(*words, f"--ckpt_path={run}") == 2
    assert f"Another process is at work in {run}" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    held.release()
    assert command(*words, f"--ckpt_path={run}") == 0
    assert not (run / ".lock").exists()


def test_a_runs_checkpoint_is_evaluated_with_its_own_config(evaluated: Path, command: Command, market: Path) -> None:
    root = evaluated / "reid"
    assert command("validate", f"--ckpt_path={root / 'fit-001/checkpoints/best.ckpt'}", "--data.seed=5") == 2
    curves = root / "fit-001/metrics/attempt-1/metrics.csv"
    assert curves.read_bytes() == (evaluated / "curves.csv").read_bytes(), "evaluating a run leaves its curves alone"
    assert len(runs_under(root / "fit-001")) == 1
    first, again = (list(csv.DictReader((root / name / "results.csv").open())) for name in ("fit-001", "test-002"))
    assert [first[0][key] for key in ("mAP", "mINP")] == [again[0][key] for key in ("mAP", "mINP")]
    assert (root / "validate-003/results.csv").is_file()
    features = load_file(root / "predict-004/features.safetensors")
    assert len(features["features"]) == len(features["is_query"]) == len(list((market).glob("[bq]*e*/*.jpg"))) - 2
    assert torch.isfinite(features["features"]).all()


def test_two_runs_of_one_seed_are_one_result(command: Command, market: Path, tmp_path: Path) -> None:
    for workers in (0, 2):  # nor does the number of loader workers change anything
        words = [f"--data.train={market}", *TINY, f"--data.num_workers={workers}"]
        assert command("fit", *words, "--trainer.logger=false") == 0
    first, second = (
        torch.load(tmp_path / f"runs/reid/fit-00{n}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for n in (1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_epoch_on_held_out_identities_can_be_tested(command: Command, market: Path, tmp_path: Path) -> None:
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false"]
    assert command("fit", *words, "--test_with=best") == 0
    (row,) = csv.DictReader((tmp_path / "runs/reid/fit-001/results.csv").open())
    assert row["weights"] == "best.ckpt"
    best = tmp_path / "runs/reid/fit-001/checkpoints/best.ckpt"
    state = torch.load(best, weights_only=True)
    fit = read_summary(tmp_path / "runs/reid/fit-001")
    assert fit is not None and fit.steps == state["global_step"]
    torch.save({**state, "global_step": 1}, best)
    assert command("test", f"--ckpt_path={best}") == 0
    test = read_summary(tmp_path / "runs/reid/test-002")
    assert test is not None and test.steps == 1, "of the tested weights, not of the whole training"
    assert command("fit", *words, "--test_with=best", "--data.val_share=0") == 2, "nothing is held out to choose on"


WRITERS = {
    "duke": dataset_layouts.write_dukemtmcreid,
    "cuhk03": dataset_layouts.write_cuhk03np,
    "msmt17_v1": dataset_layouts.write_msmt17,
    "msmt17_v2": lambda root: dataset_layouts.write_msmt17(root, version=2),
    "msmt17_market": dataset_layouts.write_msmt17_market,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_benchmark_layout_opens_by_its_path_alone(layout: str, tmp_path: Path) -> None:
    sampler = functools.partial(PKSampler, identities_per_batch=2, images_per_identity=2)
    source = str(WRITERS[layout](tmp_path / layout))
    data = ReIDDataModule(source, image_size=(64, 32), val_share=0.5, num_workers=0, sampler=sampler)
    assert next(iter(data.train_dataloader())).images.shape == (4, 3, 64, 32)
    assert data.val_set is not None and len(data.val_set) and len(data.test_set)


@pytest.mark.parametrize("layout", ["cuhk03", "msmt17_v2"])
def test_a_benchmark_layout_trains_by_its_path_alone(layout: str, command: Command, tmp_path: Path) -> None:
    root = WRITERS[layout](tmp_path / layout)
    assert command("fit", f"--data.train={root}", *TINY, "--trainer.max_epochs=1", "--trainer.logger=false") == 0
    assert (tmp_path / "runs/reid/fit-001/results.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_backbones_swap_by_an_override_alone(backbone: str, command: Command, market: Path, tmp_path: Path) -> None:
    words = [f"--data.train={market}", *TINY, f"--model.backbone={backbone}", "--trainer.max_epochs=1"]
    words += ["--trainer.limit_train_batches=2", "--trainer.logger=false", "--trainer.callbacks=[BackboneExport]"]
    assert command("fit", *words, "--test_with=none") == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'runs/reid/fit-001/backbone'}", pretrained=True).eval()
    assert model.pretrained_cfg["architecture"] == backbone
    one, other = model(torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)))
    assert one.isfinite().all() and not torch.equal(one, other)


def test_a_saved_config_starts_another_run(tracked: Command, market: Path, tmp_path: Path) -> None:
    words = [f"--data.train={market}", *TINY, "--trainer.max_epochs=1"]
    assert tracked("fit", *words) == 0
    config = "--config=runs/reid/fit-001/config.yaml"
    assert tracked("fit", config) == 0
    root = tmp_path / "runs/reid"
    assert sorted(path.name for path in root.iterdir()) == ["fit-001", "fit-002"]
    assert len({record.stem for record in runs_under(root)}) == 2
    assert (root / "fit-001/config.yaml").read_bytes() == (root / "fit-002/config.yaml").read_bytes()

    # What follows another setting still does, and what only fit knows is no hindrance.
    assert tracked("fit", config, "--trainer.max_epochs=3", "--trainer.logger=false", "--test_with=none") == 0
    saved = torch.load(root / "fit-003/checkpoints/last.ckpt", weights_only=True)
    rate = saved["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(0, abs=1e-12), "the cosine's end after three epochs"
    assert tracked("test", config, "--ckpt_path=last", "--trainer.logger=false") == 0


def test_a_requeued_slurm_job_goes_on_and_tests_its_last_epoch(
    command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOB_ID", "NTASKS", "NTASKS_PER_NODE"):
        monkeypatch.setenv(f"SLURM_{name}", "1")
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--trainer.devices=1"]
    assert command("fit", *words) == 0
    run = tmp_path / "runs/reid/fit-001"
    saved = run / "hpc_ckpt_1.ckpt"  # what Lightning saves when SLURM announces the end
    shutil.copy(run / "checkpoints/last.ckpt", saved)

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert command("fit", *words) == 0
    assert [path.name for path in run.parent.iterdir()] == ["fit-001"]
    assert not saved.exists()
    first, second = csv.DictReader((run / "results.csv").open())
    assert second == first, "the weights of the last epoch, not those saved for the requeue"


def test_averaged_weights_are_those_of_a_run_taken_up_after_its_last_epoch(
    command: Command, market: Path, tmp_path: Path
) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.logger=false", "--trainer.max_epochs=1"]
    words += ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    assert command(*words) == 0
    run = tmp_path / "runs/reid/fit-001"
    whole = (run / "backbone/model.safetensors").read_bytes()
    shutil.rmtree(run / "backbone")  # killed between its last epoch and its end
    assert command(*words, "--ckpt_path=last") == 0
    assert (run / "backbone/model.safetensors").read_bytes() == whole
    first, second = csv.DictReader((run / "results.csv").open())
    assert second == first
    trained = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["current_model_state"]
    averaged = load_file(run / "backbone/model.safetensors")
    weight = next(name for name, values in averaged.items() if values.ndim == 4)
    assert not any(torch.equal(values, averaged[weight]) for values in trained.values()), "the average is another"


def test_a_run_begun_from_another_runs_checkpoint_has_a_best_of_its_own(
    command: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.logger=false"]
    assert command(*words, "--trainer.max_epochs=1", "--test_with=none") == 0
    state = torch.load(tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt", weights_only=True)
    state["callbacks"]["RunCheckpoint"]["best_score"] = 101.0  # which no later epoch reaches
    torch.save(state, tmp_path / "elsewhere.ckpt")
    words += [f"--ckpt_path={tmp_path / 'elsewhere.ckpt'}", "--test_with=best"]
    assert command(*words, "--trainer.max_epochs=1") == 2, "nothing is left to train, so nothing is validated"
    error = capfd.readouterr().err
    assert "There is no best checkpoint to test" in error
    assert "Traceback" not in error
    assert command(*words, "--trainer.max_epochs=2") == 0
    assert (tmp_path / "runs/reid/fit-003/checkpoints/best.ckpt").is_file()
    (row,) = csv.DictReader((tmp_path / "runs/reid/fit-003/results.csv").open())
    assert row["weights"] == "best.ckpt"


def test_a_compiled_backbone_takes_a_runs_checkpoint_and_gives_its_features(
    command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs are captured and run for real; only the C++ compiler, which takes half a minute, is left out.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--model.backbone=test_vit"]
    assert command("fit", *words, "--trainer.max_epochs=1", "--test_with=none") == 0
    counters.clear()
    predict = ["predict", "--ckpt_path=last", "--trainer.logger=false"]
    assert command(*predict) == 0
    assert not counters["stats"], "nothing is compiled unasked"
    assert command(*predict, "--trainer.callbacks+=CompileBackbone") == 0
    assert counters["stats"]["unique_graphs"] >= 1
    eager, compiled = (load_file(tmp_path / f"runs/reid/predict-00{n}/features.safetensors") for n in (2, 3))
    torch.testing.assert_close(compiled["features"], eager["features"], rtol=1e-4, atol=1e-4)


def test_precision_and_accumulation_are_trainer_arguments(command: Command, market: Path, tmp_path: Path) -> None:
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--trainer.max_epochs=1"]
    words += ["--trainer.precision=bf16-mixed", "--trainer.accumulate_grad_batches=2"]
    assert command("fit", *words) == 0
    checkpoint = torch.load(tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6, "twelve batches in pairs"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_network_converted_to_half_precision_trains_and_gives_features(
    precision: str, command: Command, market: Path, tmp_path: Path
) -> None:
    words = [f"--trainer.precision={precision}", "--trainer.logger=false"]
    small = [*TINY, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    assert command("fit", f"--data.train={market}", *small, *words) == 0
    (row,) = csv.DictReader((tmp_path / "runs/reid/fit-001/results.csv").open())
    assert 0 < float(row["mAP"]) <= 100
    state = torch.load(tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["neck.norm.weight"].dtype == {"bf16-true": torch.bfloat16, "16-true": torch.float16}[precision]
    assert all(value.isfinite().all() for value in state.values())
    assert command("predict", "--ckpt_path=last", *words) == 0
    features = load_file(tmp_path / "runs/reid/predict-002/features.safetensors")["features"]
    assert features.dtype == torch.float32 and features.isfinite().all()


def test_several_sources_chain_and_another_is_the_test(command: Command, market: Path, tmp_path: Path) -> None:
    duke = dataset_layouts.write_dukemtmcreid(tmp_path / "duke")
    words = [f"--data.train=[{market},{duke}]", f"--data.test={duke}", *TINY, "--trainer.max_epochs=1"]
    assert command("fit", *words, "--trainer.logger=false") == 0
    (row,) = csv.DictReader((tmp_path / "runs/reid/fit-001/results.csv").open())
    assert row["dataset"] == "dukemtmcreid"
    checkpoint = torch.load(tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt", weights_only=True)
    market_ids = 8 - 4  # half of each source's identities are held out
    duke_ids = len(set(dataset_layouts.TRAIN_IDS)) - 2
    assert len(checkpoint["state_dict"]["classifier.weight"]) == market_ids + duke_ids


def test_a_fit_says_that_its_initial_weights_know_the_held_out_people(
    command: Command, market: Path, recwarn: pytest.WarningsRecorder
) -> None:
    words = ("fit", f"--data.train={market}", *TINY, "--trainer.max_epochs=1", "--test_with=none")

    def told() -> bool:
        found = [str(each.message) for each in recwarn.list if "people who are held out" in str(each.message)]
        recwarn.clear()
        return bool(found)

    assert command(*words, "--data.val_share=0") == 0
    assert command(*words, "--model.init_from=runs/reid/fit-001/backbone") == 0
    assert told()
    assert command(*words, "--model.init_from=runs/reid/fit-002/backbone") == 0
    assert told(), "what weights started from has been trained on as well"
    assert command(*words) == 0
    assert not told()


def test_a_fit_starts_from_another_fits_backbone(command: Command, market: Path, tmp_path: Path) -> None:
    quick = ("--trainer.max_epochs=1", "--trainer.logger=false")
    assert command("fit", f"--data.train={market}", *TINY, *quick) == 0
    source = tmp_path / "runs/reid/fit-001/backbone"
    words = [f"--data.train={market}", *TINY, *quick, f"--model.init_from={source}", "--model.optimizer.init_args.lr=0"]
    assert command("fit", *words) == 0
    one, two = (load_file(tmp_path / f"runs/reid/fit-00{n}/backbone/model.safetensors") for n in (1, 2))
    trained = [name for name in one if name.endswith("weight")]
    assert trained
    assert all(torch.equal(one[name], two[name]) for name in trained)

    # The folder is the whole network that is compared: neck, stride and pooling come with it.
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", f"--model.init_from={source}"]
    assert command("predict", *words) == 0
    assert command("predict", "--ckpt_path=runs/reid/fit-001/checkpoints/last.ckpt", "--trainer.logger=false") == 0
    of_folder, of_run = (load_file(tmp_path / f"runs/reid/predict-00{n}/features.safetensors") for n in (3, 4))
    assert torch.equal(of_folder["features"], of_run["features"])
