"""What users get wrong: one clear error, exit code 2, no traceback."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from diffreid_lightning.cli import lightning_cli, uncaught_errors
from diffreid_lightning.cli.library_errors import worded_running
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.reid.supervised import SupervisedReID
from tests.fixtures.command_line import TINY
from tests.fixtures.dataset_layouts import write_market1501

Command = Callable[..., int]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fitt"], ["did you mean 'fit'"]),
        (["fit", "--model.bakbone=resnet18"], ["model.bakbone", "did you mean 'backbone'"]),
        (["fit", "--trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean 'max_epochs'"]),
        (["fit", "--modle.backbone=x"], ["modle", "did you mean 'model'"]),
        (["validate", "--test_with=last"], ["test_with"]),
        (["fit", "--return_predictions=true"], ["return_predictions"]),
        (["fit", "--data.train_view.init_args.flop=1"], ["flop", "did you mean 'flip'"]),
        (["fit", "--data.sampler.init_args.image_per_identity=1"], ["did you mean 'images_per_identity'"]),
        (["fit", "--model.optimizer.init_args.learning_rate=1"], ["learning_rate"]),
        (["fit", "--model=SupervisedReId"], ["did you mean 'SupervisedReID'"]),
        (["fit", "--model.optimizer=torch.optim.Adamm"], ["Adamm"]),
        (["fit", "--trainer.max_epochs=many"], ["--trainer.max_epochs", "'many'", "a whole number"]),
        (["fit", "--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["fit", "--config"], ["no file after it"]),
        (["fit", "--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["test", "--ckpt_path=last"], ["no run"]),
        (["fit", "--ckpt_path=best"], ["no run"]),
        (["test", "--ckpt_path"], ["--ckpt_path has no value"]),
        (["fit", "--data.train", "--trainer.max_epochs=1"], ["--data.train has no value"]),
        (["fit", "market"], ["'market' is not an option"]),
        (["fit", "--optimizer.lr=1"], ["did you mean 'model.optimizer.lr'"]),
        (["fit", "--max_epochs", "3"], ["did you mean 'trainer.max_epochs'"]),
        (["fit", "--trainer.callbacks+=CompileBackbon"], ["did you mean 'CompileBackbone'"]),
        (["fit", "--trainer.callbacks+=CompileBackbone", "--trainer.callbacks.dynamc=true"], ["'dynamic'"]),
        (["fit", "--model.losses+=BatchHardTriplt"], ["did you mean 'BatchHardTriplet'"]),
        (["fit", "--model.scheduler=StepLRR"], ["did you mean 'StepLR'"]),
        (["fit", "--test_with", "lst"], ["did you mean --test_with last"]),
        (["fit", "--trainer.precision", "17"], ["--trainer.precision", "16-mixed", "bf16"]),
        (["fit", "--model.image_size", "64"], ["--model.image_size", "2 values", "[256,128]"]),
        (["fit", "--data.image_size=[64,big]"], ["--data.image_size", "2 values"]),
        (["fit", "--model.pooling=gemm"], ["did you mean --model.pooling gem"]),
        (["fit", "--model.optimizer.lr=abc"], ["--model.optimizer.lr", "a number"]),
        (["fit", "--trainer.gradient_clip_val=abc"], ["--trainer.gradient_clip_val", "a number or null"]),
        (["fit", "--data.sampler.identities_per_batch=2.5"], ["identities_per_batch", "a whole number"]),
        (["fit", "--trainer.devices=abc"], ["devices"]),
        (["fit", "--config=bot_market.yaml"], ["did you mean --config recipes/bot_market1501"]),
        (["fit", "--model.backbone=resnet51"], ["resnet51", "resnet50"]),
        (
            ["fit", "--trainer.callbacks=[../../evil.Writer]"],
            ["names a class that does not exist", "../../evil.Writer"],
        ),
        (["fit", "--data.train=/no/such/folder"], ["/no/such/folder"]),
        (["fit", "--trainer.callbacks+=RunCheckpoint"], ["RunCheckpoint is in trainer.callbacks 2 times"]),
        (
            ["test", "--trainer.callbacks+=RetrievalEvaluator", "--trainer.callbacks.rerank=true"],
            ["RetrievalEvaluator is in trainer.callbacks 2 times", "recipes/rerank"],
        ),
        (["fit", "--data.val_share=1.5"], ["val_share"]),
        (["fit", "--data.sampler.init_args.identities_per_batch=100000"], ["100000", "held out"]),
        (["fit", "--trainer.devices=0"], ["devices"]),
        (["fit", "--trainer.strategy=ddpp"], ["ddpp"]),
        (["fit", "--trainer.accelerator=tpuu"], ["tpuu"]),
        (["fit", "--data.num_workers=-1"], ["data.num_workers must be at least 0", "-1"]),
        (["fit", "--data.eval_batch_size=0"], ["data.eval_batch_size must be at least 1"]),
        (["fit", "--seed_everything=-1"], ["seed_everything", "from 0 to 4294967295", "-1"]),
        (
            [
                "fit",
                "--trainer.callbacks=[RetrievalEvaluator]",
                "--trainer.callbacks+=RunCheckpoint",
                "--trainer.callbacks.every_n_epochs=0",
            ],
            ["RunCheckpoint.every_n_epochs must be at least 1"],
        ),
        (
            [
                "fit",
                "--model.scheduler=torch.optim.lr_scheduler.StepLR",
                "--model.scheduler.step_size=1",
                "--trainer.max_epochs=many",
            ],
            ["max_epochs", "many"],
        ),
        (["fit", "--config=recipes/bot_market1501"], ["--data.train", "???"]),
    ],
)
def test_mistakes_are_named_with_their_remedy(
    words: list[str], expected: list[str], command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "NestedArg" not in error
    for text in expected:
        assert text in error
    assert not list(tmp_path.glob("runs/*/*")), "a run that made nothing leaves no folder"


def test_a_misspelt_key_in_a_file_is_named(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("model:\n  class_path: SupervisedReID\n  init_args:\n    poolng: gem\n")
    assert command("fit", f"--config={path}") == 2
    assert "did you mean 'pooling'" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 not a picture"])
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_named(
    content: bytes, workers: int, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 6))
    broken = sorted((root / "bounding_box_train").glob("*.jpg"))[0]
    broken.write_bytes(content)
    words = [f"--data.train={root}", *TINY, "--data.val_share=0", f"--data.num_workers={workers}"]
    assert command("fit", *words, "--trainer.logger=false", "--data.sampler.init_args.images_per_identity=12") == 2
    error = capfd.readouterr().err
    assert broken.name in error
    assert "Traceback" not in error


def test_an_unreadable_file_name_is_named(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_market1501(tmp_path / "market")
    (root / "query" / "holiday.jpg").write_bytes(next((root / "query").glob("*.jpg")).read_bytes())
    assert command("fit", f"--data.train={root}", *TINY) == 2
    assert "holiday.jpg" in capfd.readouterr().err


def test_an_empty_split_is_named(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_market1501(tmp_path / "market")
    for path in (root / "query").glob("*.jpg"):
        path.unlink()
    assert command("fit", f"--data.train={root}", *TINY, "--trainer.logger=false") == 2
    assert "query" in capfd.readouterr().err


def test_no_query_with_a_match_is_named_before_the_training(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_market1501(tmp_path / "market", test_ids=(3,), cameras=(1, 2), images_per_camera=2)
    for path in (root / "bounding_box_test").glob("0003*"):
        path.unlink()
    assert command("fit", f"--data.train={root}", *TINY, "--trainer.logger=false") == 2
    error = capfd.readouterr().err
    assert "None of the 2 queries has a match" in error and "--test_with none" in error
    assert not (tmp_path / "runs").exists(), "nothing was made"
    assert command("data", "check", str(root)) != 0
    assert "none of the 2 queries has a match" in capfd.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_that_fails_behind_the_training_says_how_to_repeat_it(
    workers: int,
    command: Command,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diffreid_lightning.reid.person_images._LOOK", -1.0)  # as if there were many more images
    root = write_market1501(tmp_path / "market")
    next((root / "query").iterdir()).write_bytes(b"")
    words = [*TINY, f"--data.num_workers={workers}", "--trainer.logger=false", "--trainer.max_epochs=1"]
    assert command("fit", f"--data.train={root}", *words) == 2
    assert "this repeats it: test --ckpt_path runs/reid/fit-001" in caplog.text
    assert capfd.readouterr().err.count("do this:") == 1
    assert (tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt").is_file()


def test_a_folder_without_query_and_gallery_is_trained_on_and_it_is_said(
    command: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    plain = tmp_path / "plain"
    for person in range(8):
        (plain / str(person)).mkdir(parents=True)
        for number, path in enumerate(sorted((market / "bounding_box_train").glob("*.jpg"))[:4]):
            shutil.copy(path, plain / str(person) / f"{number}.jpg")
    assert command("fit", f"--data.train={plain}", *TINY, "--trainer.logger=false") == 0
    assert "Not tested: " in caplog.text and "run folder:" in caplog.text
    assert command("fit", f"--data.train={market}", f"--data.test={plain}", *TINY, "--trainer.logger=false") == 2
    assert "no image in the query split" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--model.optimizer.lr=-0.1"], ["optimizer refuses", "Invalid learning rate"]),
        (["--model.scheduler.T_max=0"], ["scheduler refuses", "--model.scheduler.help"]),
        (["--config", "reference.yaml"], ["leads nowhere", "trainer.max_epoch"]),
        (["--test_with=best", "--data.val_share=0"], ["no best checkpoint", "data.val_share is 0"]),
        (
            ["--test_with=best", "--data.val_share=0.3", "--trainer.check_val_every_n_epoch=5"],
            ["check_val_every_n_epoch 5"],
        ),
        (["--test_with=best", "--trainer.limit_val_batches=0"], ["limit_val_batches 0"]),
        (["--test_with=best", "--trainer.callbacks=[RetrievalEvaluator]"], ["no ModelCheckpoint with a monitor"]),
        (["--data=/data/market1501"], ["did you mean --data.train /data/market1501?"]),
        (["--data.train.strict=true"], ["has no arguments of its own", "--data.train Market1501 --data.train.root /"]),
        (["--ckpt_path=lst"], ["did you mean 'last'"]),
        (["--ckpt_path=runs/reid/fit-999"], ["no such folder"]),
    ],
)
def test_what_newcomers_got_wrong(
    words: list[str], hints: list[str], command: Command, market: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "reference.yaml").write_text("model: {warmup_epochs: '${trainer.max_epoch}'}\n")
    assert command("fit", f"--data.train={market}", *TINY, "--trainer.logger=false", *words) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    for hint in hints:
        assert hint in error


def test_a_config_may_leave_out_init_args_and_the_sampler(command: Command, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("model: {optimizer: {lr: 0.002}}\ndata: {sampler: null}\n")
    words = ["--trainer.fast_dev_run=1", "--trainer.logger=false", "--data.num_workers=0", "--trainer.callbacks=null"]
    assert command("fit", "--config", "short.yaml", *words) == 0


@pytest.mark.parametrize("how", ["in the trainer", "elsewhere"])
def test_an_interruption_says_how_to_go_on(
    how: str, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if how == "elsewhere":
                raise
            sys.exit(1)  # as Lightning's trainer does

    monkeypatch.setattr(lightning_cli, "run_command", stop)
    assert command("fit") == 130
    assert "--ckpt_path last" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"], ["'val_loss'", "val/mAP"]),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/mAP", "--data.val_share=0"],
            ["never logged", "data.val_share is 0"],
        ),
        (["--trainer.callbacks=[RetrievalEvaluator]", "--trainer.callbacks+=RunCheckpoint",
          "--trainer.callbacks.monitor=val/map"], ["did you mean 'val/mAP'"]),
        (["--trainer.callbacks+=LearningRateFinder"], ["Lightning cannot run", "lr_find", "traceback.txt"]),
        (["--model.optimizer=torch.optim.LBFGS"], ["optimizer refuses"]),
        (["--trainer.precision=transformer-engine"], ["package that is not installed", "transformer_engine"]),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], ["--trainer.strategy ddp"]),
        (["--trainer.strategy=ddp_notebook", "--trainer.devices=2"], ["--trainer.strategy ddp"]),
        (["--trainer.logger=WandbTracker"], ["WANDB_MODE=disabled"]),
    ],
)  # fmt: skip
def test_what_lightning_would_only_find_later_is_the_users_to_change(
    words: list[str], hints: list[str], command: Command, market: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", "off")  # of no matter where W&B is not asked
    given = [*TINY, "--trainer.logger=false", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", *words]
    assert command("fit", f"--data.train={market}", *given) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    for hint in hints:
        assert hint in error


def test_what_nobody_foresaw_is_one_error_with_the_traceback_in_a_file(
    command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("nobody\nknows")

    words = ["fit", f"--data.train={market}", *TINY, "--trainer.logger=false"]
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedReID, "training_step", fail)
        assert command(*words) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error and "KeyError" in error
    file = tmp_path / "runs/reid/fit-001/traceback.txt"
    assert f"{file.relative_to(tmp_path)}" in error and "Traceback" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, verb in {"data": "data", "select": "select", "convert": "convert", "run_pipeline": "pipeline"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"diffreid_lightning.cli.commands.{name}.{verb}_command", fail)
            assert command(verb) == 1
    named = re.findall(r"is in (\S+);", capfd.readouterr().err)
    assert len(named) == 4 and all("nobody" in Path(path).read_text() for path in named)


def test_a_thread_that_fails_is_heard_of(capfd: pytest.CaptureFixture[str]) -> None:
    with uncaught_errors.threads_worded():
        thread = threading.Thread(target=lambda: [][1])
        thread.start()
        thread.join()
    error = capfd.readouterr().err
    assert error.startswith("warning: a background thread ended: IndexError") and "Traceback" not in error
    Path(error.split()[-1]).unlink()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError(), 1, "memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, "--data.num_workers 0"),
        (DeprecationWarning("old"), 2, "PYTHONWARNINGS"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "traceback.txt"),  # of a process, while somebody reads
        (SystemExit(3), 3, ""),
    ],
)
def test_what_the_machine_refuses(
    error: BaseException, code: int, text: str, command: Command, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(lightning_cli, "run_command", refuse)
    assert command("fit") == code
    said = capfd.readouterr().err
    assert text in said and bool(text) == bool(said)


def test_a_reader_that_has_gone_ends_a_command_as_any_other_tool(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream, monkeypatch.context() as patch:  # noqa: PTH123 (a descriptor)
        patch.setattr(sys, "stdout", stream)
        assert command("--help") == 141
    assert not capfd.readouterr().err


def test_a_launchers_variable_that_is_no_number_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "abc")
    assert command("fit") == 2
    assert "RANK is not a whole number" in capfd.readouterr().err


def test_a_backend_that_matplotlib_lacks_is_named_before_anything_runs(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "diffreid_lightning", "report", "nowhere"]
    environment = {**os.environ, "MPLBACKEND": "bogus"}
    ended = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and "MPLBACKEND names no backend" in ended.stderr


def test_a_disk_that_may_not_be_written_is_the_users_to_change(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/there")

    monkeypatch.setattr(lightning_cli, "run_command", refuse)
    assert command("fit") == 2
    assert "a place that can be written" in capfd.readouterr().err


def test_an_optimizers_state_that_does_not_fit_is_the_checkpoints_fault() -> None:
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    state = torch.optim.SGD([{"params": [one]}, {"params": [two]}], lr=1.0).state_dict()
    with pytest.raises(ValueError, match="parameter groups") as caught:
        torch.optim.SGD([one], lr=1.0).load_state_dict(state)
    worded = worded_running(caught.value)
    assert worded is not None and "checkpoint does not fit" in worded.what


@pytest.mark.parametrize("place", ["torch/optim/adam.py", "lightning/pytorch/strategies/strategy.py"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory")]
)
def test_memory_that_runs_out_is_no_setting_that_is_refused(error: Exception, place: str) -> None:
    with pytest.raises(type(error)) as caught:
        exec(compile("raise error", f"/site-packages/{place}", "exec"), {"error": error})
    assert worded_running(caught.value) is None, "main words it"


def test_a_diverged_loss_stops_the_run_and_keeps_the_checkpoint(
    command: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--model.warmup_epochs=0"]
    explosion = ["--model.scheduler=torch.optim.lr_scheduler.MultiStepLR", "--model.scheduler.milestones=[1]"]
    assert command("fit", *words, *explosion, "--model.scheduler.gamma=1e30", "--trainer.max_epochs=3") == 1
    error = capfd.readouterr().err
    assert "no longer finite" in error
    assert "Traceback" not in error
    checkpoint = torch.load(tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0, "the last good epoch's"
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_checkpoints_that_cannot_be_used(
    command: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    assert command("test", "--ckpt_path=junk.ckpt") == 2
    assert "no checkpoint of this package" in capfd.readouterr().err
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--trainer.max_epochs=1", "--test_with=none"]
    assert command("fit", *words) == 0
    assert command("test", "--ckpt_path=last", "--model.backbone=test_vit", "--trainer.logger=false") == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "--model.backbone" in error

    last = tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt"
    whole = torch.load(last, weights_only=True)
    state = whole["optimizer_states"][0]["state"]
    loops = {**whole["loops"], "fit_loop": {**whole["loops"]["fit_loop"], "epoch_progress": None}}
    broken = {
        "optimizer_states": {key: value for key, value in whole.items() if key != "optimizer_states"},
        "loops.fit_loop.epoch_progress": {**whole, "loops": loops},
        "exp_avg of shape": {
            **whole, "optimizer_states": [
                {**whole["optimizer_states"][0], "state": {**state, 0: {**state[0], "exp_avg": torch.zeros(1)}}}
            ],
        },
    }  # fmt: skip
    for told, content in broken.items():
        torch.save(content, last)
        assert command("fit", *words, "--trainer.max_epochs=2", "--ckpt_path=last") == 2
        error = capfd.readouterr().err
        assert told in error and "Traceback" not in error
        assert torch.load(last, weights_only=True).keys() == content.keys(), "what is there stays"
    saved = tmp_path / "runs/reid/fit-001/config.yaml"
    for damaged in ("trainer: [1]", "trainex: {}\nmodel: null", "a: [", "{a: " * 500):
        saved.write_text(damaged)
        assert command("test", "--ckpt_path=last") == 2
        error = capfd.readouterr().err
        assert error.startswith("error: ") and "Traceback" not in error and saved.read_text() == damaged


def test_nobody_to_validate_on(command: Command, market: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("validate", f"--data.train={market}", *TINY, "--data.val_share=0", "--trainer.logger=false") == 2
    assert "nobody to validate on" in capfd.readouterr().err


def test_help_and_empty_command(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert command() == 2
    assert "data check" in capfd.readouterr().out
    assert command("fit", "--help", "all") == 0
    shown = capfd.readouterr().out
    assert shown.startswith("usage: python -m diffreid_lightning fit [--config")
    assert "--trainer.gradient_clip_val" in shown


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_the_first_page_of_help_names_what_exists(
    command: Command, subcommand: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(subcommand, "--help") == 0
    page = capfd.readouterr().out
    assert max(map(len, page.splitlines())) <= 120
    for name in re.findall(r"--config ((?:stages|recipes)/\w+)", page):
        assert (configs_folder() / f"{name}.yaml").exists()
    if subcommand == "fit":  # settings and defaults as they are
        assert len(re.findall(r"  --config stages/", page)) == 5
        settings = re.findall(
            r"^  (--\S+) (\S+)  ", page.partition("defaults:")[2].partition("Configs")[0], re.MULTILINE
        )
        assert len(settings) > 10
        assert command("fit", "--print_config") == 0
        default = capfd.readouterr().out
        given = [word for flag, value in settings if value != "..." for word in (flag, value)]
        assert command("fit", *given, "--print_config") == 0
        assert capfd.readouterr().out == default


def test_print_config_shows_what_would_run(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("fit", "--model.backbone=resnet34", "--trainer.max_epochs=7", "--print_config") == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert shown["model"]["init_args"]["backbone"] == "resnet34"
    assert shown["trainer"]["max_epochs"] == 7


def test_a_printed_config_follows_later_overrides(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("fit", "--print_config") == 0
    (tmp_path / "my.yaml").write_text(capfd.readouterr().out)
    words = ["fit", "--config=my.yaml", "--trainer.max_epochs=3"]
    for more, period in ([], "${trainer.max_epochs}"), (["--model.scheduler.T_max=3"], 3):
        assert command(*words, *more, "--print_config") == 0
        shown = yaml.safe_load(capfd.readouterr().out)
        assert shown["model"]["init_args"]["scheduler"]["init_args"]["T_max"] == period


def test_a_fused_optimizer_that_cannot_clip_is_named(
    command: Command, market: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--model.optimizer.init_args.fused=true",
        "--trainer.gradient_clip_val=1",
        "--trainer.precision=bf16-mixed",
    ]
    assert command("fit", f"--data.train={market}", *TINY, *words) == 2
    error = capfd.readouterr().err
    assert "fused" in error
    assert "Traceback" not in error


def test_a_file_that_a_setting_names_is_not_read_as_a_configuration(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crops.csv").write_text("path,pid,camid\na.jpg,1,1\n")
    assert command("fit", "--data.train", "crops.csv", "--print_config") == 0
    assert "train: crops.csv" in capsys.readouterr().out
    os.mkfifo(tmp_path / "pipe")
    assert command("fit", "--data.train", "pipe") == 2
    assert "a named pipe" in capsys.readouterr().err
