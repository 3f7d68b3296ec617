"""Every option of fit's default configuration, at the start of a run and where one goes on: in force, or refused.

A new option fails the test until it is given another value here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from diffreid_lightning.cli.lightning_cli import DiffReIDCLI
from diffreid_lightning.cli.resume_settings import refuse_start_changes
from diffreid_lightning.config_files import Change, leaves
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.supervised import SupervisedReID
from diffreid_lightning.training.resumable_schedule import take_options
from tests.fixtures.command_line import TINY

Command = Callable[..., int]
Look = Callable[[Any], Any]
START, GO_ON = "start", "go on"


@dataclass(frozen=True)
class Other:
    """Another value of an option.

    Args:
        value: what it is set to; of a ``class_path``, the section that takes the place of its own.
        look: finds what is in force, given the trainer (``t``) and the command (``cli``); None: the attribute of the
            object that the option configures.
        refused: when the value is refused: at the start, when going on, or both; where it is not, it is in force.
        group: options of one group are set together, in one command. Those of group 2 are looked at as soon as the
            trainer is built, since it would start other processes.
    """

    value: Any
    look: Look | None = None
    refused: tuple[str, ...] = ()
    group: int = 0


def kinds(things: Any) -> list[str]:
    return [type(each).__name__ for each in things]


def drop_path(t: Any) -> float:
    """Return the rate of the last block; the rates of the blocks before it rise to it."""
    return float(max(getattr(module, "drop_prob", 0) or 0 for module in t.lightning_module.modules()))


def schedule(t: Any) -> Any:
    return t.lr_scheduler_configs[0].scheduler


def logger(number: int, name: str) -> Look:
    return lambda s: s.t.loggers[number]._wandb_init[name]


BOTH = (START, GO_ON)
LAUNCHES = 2
T, L, C, M, D = "trainer.", "trainer.logger.", "trainer.callbacks.", "model.init_args.", "data.init_args."
OTHERS: dict[str, Other] = {
    "seed_everything": Other(7, lambda s: int(os.environ["PL_GLOBAL_SEED"])),
    "test_with": Other("last", lambda s: s.cli._test_with),
    # Trainer.
    T + "accelerator": Other("cuda", refused=BOTH),  # which is hidden from the tests
    T + "strategy": Other("ddp", lambda s: {"DDPStrategy": "ddp"}.get(type(s.t.strategy).__name__), group=LAUNCHES),
    T + "devices": Other(2, lambda s: s.t.num_devices, group=LAUNCHES),
    T + "num_nodes": Other(2, refused=BOTH),
    T + "precision": Other("bf16-mixed"),
    T + "fast_dev_run": Other(3, group=3, refused=(GO_ON,)),
    T + "max_epochs": Other(5),
    T + "min_epochs": Other(2),
    T + "max_steps": Other(60),
    T + "min_steps": Other(2),
    T + "max_time": Other("00:02:00:00", lambda s: f"00:0{named(s.t.callbacks, 'Timer')._duration / 3600:g}:00:00"),
    T + "limit_train_batches": Other(2),
    T + "limit_val_batches": Other(3),
    T + "limit_test_batches": Other(4),
    T + "limit_predict_batches": Other(5),
    T + "overfit_batches": Other(2, group=1),
    T + "val_check_interval": Other(0.5),
    T + "check_val_every_n_epoch": Other(2),
    T + "num_sanity_val_steps": Other(1),
    T + "log_every_n_steps": Other(3),
    T + "enable_checkpointing": Other(False, refused=BOTH),
    T + "enable_progress_bar": Other(True, lambda s: s.t.progress_bar_callback is not None),
    T + "enable_model_summary": Other(False, lambda s: "ModelSummary" in kinds(s.t.callbacks)),
    T + "accumulate_grad_batches": Other(2),
    T + "gradient_clip_val": Other(0.5),
    T + "gradient_clip_algorithm": Other("value"),
    T + "deterministic": Other(True, lambda s: torch.are_deterministic_algorithms_enabled()),
    T + "benchmark": Other(True, lambda s: torch.backends.cudnn.benchmark, group=1),
    T + "inference_mode": Other(False, lambda s: s.t.validate_loop.inference_mode),
    T + "use_distributed_sampler": Other(False, lambda s: s.t._accelerator_connector.use_distributed_sampler),
    T + "profiler": Other("simple", lambda s: {"SimpleProfiler": "simple"}.get(type(s.t.profiler).__name__)),
    T + "detect_anomaly": Other(True, lambda s: s.t._detect_anomaly),
    T + "barebones": Other(True, refused=BOTH),
    T + "plugins": Other(
        {"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"},
        lambda s: {"class_path": "lightning.pytorch.plugins.io." + type(s.t.strategy.checkpoint_io).__name__},
    ),
    T + "sync_batchnorm": Other(True, lambda s: s.t._accelerator_connector._layer_sync is not None),
    T + "reload_dataloaders_every_n_epochs": Other(2),
    T + "default_root_dir": Other("elsewhere", lambda s: s.cli.run.path.parent.name, refused=(GO_ON,)),
    T + "enable_autolog_hparams": Other(False),
    T + "model_registry": Other("registry", lambda s: s.t._model_registry),
    L + "0.init_args.project": Other("other", logger(0, "project")),
    L + "0.init_args.name": Other("other", logger(0, "name")),
    L + "0.init_args.save_dir": Other("other", logger(0, "dir")),
    L + "0.init_args.id": Other("other", logger(0, "id")),
    L + "0.init_args.entity": Other("other", logger(0, "entity")),
    L + "0.init_args.group": Other("other", logger(0, "group")),
    L + "0.init_args.tags": Other(["other"], logger(0, "tags")),
    L + "0.init_args.notes": Other("other", logger(0, "notes")),
    L + "0.init_args.artifacts": Other("files", lambda s: s.t.loggers[0].artifacts),
    L + "1.init_args.save_dir": Other("other", lambda s: s.t.loggers[1].save_dir),
    L + "1.init_args.name": Other("other"),
    L + "1.init_args.version": Other("other"),
    L + "1.init_args.prefix": Other("other"),
    L + "1.init_args.flush_logs_every_n_steps": Other(7),
    C + "0.init_args.distance": Other("euclidean"),
    C + "0.init_args.rerank": Other(True, lambda s: named(s.t.callbacks, "RetrievalEvaluator").metric.rerank, group=1),
    C + "0.init_args.max_rank": Other(20, lambda s: named(s.t.callbacks, "RetrievalEvaluator").metric.max_rank),
    C + "1.init_args.queries": Other(4),
    C + "1.init_args.top_k": Other(5),
    C + "1.init_args.every_n_epochs": Other(3),
    C + "2.class_path": Other(
        {"class_path": "LearningRateMonitor"},
        lambda s: {"class_path": type(named(s.t.callbacks, "LearningRateMonitor")).__name__},
    ),
    C + "3.init_args.monitor": Other("val/rank1"),
    C + "3.init_args.every_n_epochs": Other(2),
    C + "4.init_args.folder": Other("other"),
    C + "5.init_args.name": Other("other.safetensors"),
    # Model.
    M + "backbone": Other("test_efficientnet", lambda s: s.t.lightning_module.backbone.name, (GO_ON,), 1),
    M + "pooling": Other("avg", lambda s: s.t.lightning_module.backbone.pooling, refused=(GO_ON,)),
    M + "last_stride": Other(2, lambda s: s.t.lightning_module.backbone.last_stride),
    M + "init_from": Other("/no/such/weights", refused=BOTH),
    M + "allow_partial": Other(True, refused=(GO_ON,)),
    M + "drop_path_rate": Other(0.25, lambda s: drop_path(s.t)),
    M + "losses.0.class_path": Other(
        {"class_path": "BatchHardTriplet", "init_args": {"margin": 0.5}},
        lambda s: {"class_path": "BatchHardTriplet", "init_args": {"margin": s.t.lightning_module.losses[0].margin}},
        group=1,
    ),
    M + "losses.0.init_args.smoothing": Other(0.2),
    M + "losses.0.init_args.weight": Other(0.5),
    M + "losses.1.init_args.margin": Other(0.6),
    M + "losses.1.init_args.weight": Other(2.0),
    M + "losses.1.init_args.compares": Other("embeddings"),
    M + "optimizer.class_path": Other(
        {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        lambda s: {"class_path": "torch.optim.SGD", "init_args": {"lr": schedule(s.t).base_lrs[0]}},
        group=3,
        refused=(GO_ON,),
    ),
    M + "optimizer.init_args.lr": Other(0.25, lambda s: s.t.optimizers[0].param_groups[0]["initial_lr"]),
    M + "optimizer.init_args.betas": Other([0.8, 0.99]),
    M + "optimizer.init_args.eps": Other(1e-6),
    M + "optimizer.init_args.weight_decay": Other(0.25),
    M + "optimizer.init_args.amsgrad": Other(True, refused=(GO_ON,)),
    M + "optimizer.init_args.foreach": Other(False),
    M + "optimizer.init_args.maximize": Other(True),
    M + "optimizer.init_args.capturable": Other(True, refused=(GO_ON,)),
    M + "optimizer.init_args.differentiable": Other(True, refused=(GO_ON,)),
    M + "optimizer.init_args.fused": Other(True, refused=(GO_ON,), group=1),
    M + "optimizer.init_args.decoupled_weight_decay": Other(True),
    M + "scheduler.class_path": Other(
        {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}},
        lambda s: {
            "class_path": f"torch.optim.lr_scheduler.{type(schedule(s.t).scheduler).__name__}",
            "init_args": {"step_size": schedule(s.t).scheduler.step_size},
        },
        group=1,
    ),
    M + "scheduler.init_args.T_max": Other(9),
    M + "scheduler.init_args.eta_min": Other(0.125),
    M + "scheduler.init_args.last_epoch": Other(1, refused=BOTH),
    M + "warmup_epochs": Other(3, lambda s: schedule(s.t).epochs),
    M + "warmup_factor": Other(0.5, lambda s: schedule(s.t).factor),
    M + "feature": Other("before_bn"),
    M + "flip_average": Other(True),
    M + "scheduler_interval": Other("step", lambda s: s.t.lr_scheduler_configs[0].interval, group=1, refused=(GO_ON,)),
    # Data.
    D + "train": Other(
        "miniperson", lambda s: s.t.datamodule.train_set.rows.identities[0][0].partition("_")[0], refused=(GO_ON,)
    ),
    D + "test": Other("miniperson", lambda s: s.t.datamodule.test_name.partition("_")[0]),
    D + "image_size": Other([48, 24]),
    D + "val_share": Other(0.5, refused=(GO_ON,)),
    D + "sampler.init_args.identities_per_batch": Other(3),
    D + "sampler.init_args.images_per_identity": Other(4),
    D + "sampler.init_args.seed": Other(5),
    D + "sampler.init_args.generated_share": Other(0.0),
    D + "sampler.init_args.batches": Other(3),
    D + "sampler.init_args.by_images": Other(True),
    D + "sampler.init_args.across_cameras": Other(True),
    D + "train_view.init_args.flip": Other(0.25),
    D + "train_view.init_args.pad": Other(1),
    D + "train_view.init_args.color": Other(
        0.5, lambda s: s.t.datamodule.train_view._color.transforms[0].contrast[1] - 1
    ),
    D + "train_view.init_args.color_probability": Other(0.25, lambda s: s.t.datamodule.train_view._color.p),
    D + "train_view.init_args.erasing": Other(0.25),
    D + "train_view.init_args.erasing_area": Other([0.1, 0.2], lambda s: s.t.datamodule.train_view._erase.scale),
    D + "sample_weight": Other("confidence", refused=BOTH),
    D + "eval_batch_size": Other(16),
    D + "num_workers": Other(1, group=1),
    D + "cache_images": Other(True, group=1),
}
#: Sections that are built anew by their class path, as the callback above is; the last is what this test goes on from.
NOT_WALKED = {
    *(f"{L}{n}.class_path" for n in (0, 1)), *(f"{C}{n}.class_path" for n in (0, 1, 3, 4, 5)), "model.class_path",
    M + "losses.1.class_path", "data.class_path", D + "sampler.class_path", D + "train_view.class_path", "ckpt_path",
}  # fmt: skip


def named(things: Any, name: str) -> Any:
    return next(each for each in things if type(each).__name__ == name)


def attribute(spied: Any, key: str, base: Mapping[str, Any]) -> Any:
    """Find what an option's value became: the attribute of its name of the object that it configures."""
    t: Trainer = spied.t
    root, *path = [part for part in key.split(".") if part != "init_args"]
    found: Any = {"trainer": t, "model": t.lightning_module, "data": t.datamodule}[root]  # type: ignore[attr-defined]
    if path[0] == "logger":
        found, path = t.loggers[int(path[1])], path[2:]
    elif path[0] == "callbacks":
        class_path = base["trainer"]["callbacks"][int(path[1])]["class_path"]
        found, path = named(t.callbacks, class_path.rpartition(".")[2]), path[2:]  # type: ignore[attr-defined]
    elif path[0] == "losses":
        found, path = found.losses[int(path[1])], path[2:]
    elif path[0] == "optimizer":
        return t.optimizers[0].param_groups[0][path[1]]
    elif path[0] == "scheduler":
        found, path = schedule(t).scheduler, path[1:]
    elif path[0] == "train_view":
        found, path = found.train_view, path[1:]
    elif path[0] == "sampler":
        found, path = t.train_dataloader.sampler, path[1:]  # type: ignore[union-attr]
    return getattr(found, path[-1], getattr(found, f"_{path[-1]}", "no such attribute"))


def plain(value: Any) -> Any:
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else getattr(value, "value", value)


def put_at(config: Any, key: str, value: Any) -> None:
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in path[:-1] if last == "class_path" else path:
        config = config[part]
    config[path[-1] if last == "class_path" else last] = value


#: Refused in tests of their own: test_refused.py, test_continuation.py, test_resumable_schedule.py.
SHOWN_ELSEWHERE = {
    START: {M + "init_from"},
    GO_ON: {
        M + "backbone", M + "optimizer.class_path", M + "scheduler_interval", D + "train", D + "val_share",
        T + "default_root_dir",
    },
}  # fmt: skip


def refused_by_rule(others: Mapping[str, Other], base: Mapping[str, Any]) -> bool:
    """Tell whether a rule that other tests show at work refuses to go on with an option: no command is run for it."""
    key, other = next(iter(others.items()))
    name = key.rpartition(".")[2]
    if key.removeprefix(M) in SupervisedReID.start_only:
        change = Change(key, base["model"]["init_args"][name], other.value)
        rule: Callable[[], None] = lambda: refuse_start_changes([change], SupervisedReID.start_only, evaluating=False)  # noqa: E731
    elif key.startswith(M + "optimizer.init_args."):
        begun = base["model"]["init_args"]["optimizer"]["init_args"]
        rule = lambda: take_options(dict(begun), {name: other.value}, begun)  # noqa: E731
    else:
        return False
    try:
        rule()
    except UserError:
        return len(others) == 1
    return False


class Walk:
    """A run of one epoch, and commands that would start or continue it and are stopped before their first step."""

    def __init__(self, command: Command, market: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.command, self.folder = command, folder
        self.spied: Any = None
        words = [*TINY, f"--data.train={market}", "--data.val_share=0", "--test_with=none"]
        saved: list[str] = []
        fit = {"fit": DiffReIDCLI.subcommands()["fit"]}
        monkeypatch.setattr(DiffReIDCLI, "subcommands", staticmethod(lambda: fit))  # the other parsers take their time
        monkeypatch.setattr(DiffReIDCLI, "before_fit", lambda cli: saved.append(cli.save_config_kwargs["text"]))
        assert command("fit", *words, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1") == 0
        self.run = folder / "runs/reid/fit-001"
        self.base: dict[str, Any] = yaml.safe_load(saved[0])
        self.base["trainer"].update(max_epochs=3, limit_train_batches=None)
        self.launches = False
        monkeypatch.setattr(DiffReIDCLI, "before_fit", lambda cli: self._look(cli))
        monkeypatch.setattr(SupervisedReID, "on_train_start", self._stop)

    def _look(self, cli: DiffReIDCLI) -> None:
        self.spied = SimpleNamespace(cli=cli)
        if self.launches:
            self._stop()

    def _stop(self, module: SupervisedReID | None = None) -> None:
        self.spied.t = self.spied.cli.trainer
        raise UserError("stopped")

    def with_others(self, when: str, others: Mapping[str, Other]) -> int:
        """Run a command with other values of options, and return its exit code; 2 where it was stopped, too."""
        config = copy.deepcopy(self.base)
        for key, other in others.items():
            put_at(config, key, copy.deepcopy(other.value))
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.spied = None
        self.launches = any(other.group == LAUNCHES for other in others.values())
        return self.command("fit", "--config=config.yaml", *([f"--ckpt_path={self.run}"] if when == GO_ON else []))

    def problems(self, when: str, others: Mapping[str, Other]) -> list[str]:
        """List the options that are neither refused, where they are said to be, nor in force, everywhere else."""
        if others.keys() <= SHOWN_ELSEWHERE[when] or (when == GO_ON and refused_by_rule(others, self.base)):
            return []
        code = self.with_others(when, others)
        stopped = getattr(self.spied, "t", None) is not None
        if any(when in other.refused for other in others.values()):
            return [] if code == 2 and not stopped else [f"{when}: {list(others)} is not refused ({code})"]
        if not stopped:
            return [f"{when}: {list(others)} is refused ({code})"]
        problems = []
        for key, other in others.items():
            found = plain(other.look(self.spied) if other.look else attribute(self.spied, key, self.base))
            if found != (other.value if isinstance(other.value, dict) else pytest.approx(other.value)):
                problems.append(f"{when}: {key} {other.value} is {found}")
        return problems


@pytest.fixture
def walk(command: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    yield Walk(command, market, tmp_path, monkeypatch)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def test_every_option_is_in_force_or_refused(walk: Walk) -> None:
    options = set(dict(leaves(walk.base))) - NOT_WALKED
    assert options == set(OTHERS), "give every option of the default configuration another value in OTHERS"
    problems = []
    for when in (START, GO_ON):
        for group in range(1 + max(other.group for other in OTHERS.values())):
            together = {k: other for k, other in OTHERS.items() if other.group == group and when not in other.refused}
            if together and not (when == GO_ON and group >= LAUNCHES):  # built before a checkpoint is looked at
                problems += walk.problems(when, together)
        for key, other in OTHERS.items():
            if when in other.refused and not (when == GO_ON and START in other.refused):  # by the same constructor
                problems += walk.problems(when, {key: other})
    assert not problems, "\n".join(problems)
