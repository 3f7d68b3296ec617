"""A small world of everything the commands read and write: datasets, models, runs, a chain. Its paths are relative."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers.utils import logging as diffusers_logging

from diffreid_lightning.backbones import Backbone
from diffreid_lightning.cli import main
from diffreid_lightning.pipeline import runner
from diffreid_lightning.sweeps import trial_runner
from tests.fixtures.checkpoint_layouts import write_checkpoint, write_people
from tests.fixtures.dataset_layouts import write_market1501, zip_folder
from tests.fixtures.diffusion import CAPTIONS
from tests.fixtures.drawing import TEMPLATE, write_personalized_model, write_vocabulary
from tests.unit.filtering.conftest import write_generated

_QUICK = "--trainer.accelerator=cpu --trainer.enable_progress_bar=false --trainer.logger=false --data.num_workers=0"
_FIT = f"{_QUICK} --trainer.max_epochs=1 --trainer.enable_model_summary=false"
_PAIRS = "--data.sampler.init_args.identities_per_batch=2 --data.sampler.init_args.images_per_identity=2"
_REID = f"{_FIT} {_PAIRS} --data.image_size=[64,32] --data.val_share=0.25 --trainer.check_val_every_n_epoch=1"
_SCORE = (
    f"{_FIT} {_PAIRS} --data.train=in/market --data.image_size=[64,32] --data.eval_batch_size=32 "
    "--model.calibration=Uncalibrated --trainer.default_root_dir=runs/score"
)
_CALLBACKS = "--trainer.callbacks.folder"
#: The commands of the world as they run well, each on what the ones before it left.
COMMANDS: dict[str, str] = {
    "fit": f"fit {_REID} --data.train=in/market",
    "test": "test --ckpt_path last --trainer.enable_progress_bar=false",
    "features": "predict --ckpt_path last --trainer.enable_progress_bar=false",
    "caption": f"predict --config stages/caption {_QUICK} --data.source=in/market --data.batch_size=8 "
    f"--trainer.default_root_dir=runs/caption {_CALLBACKS}=runs/caption",
    "score": f"fit --config stages/score {_SCORE}",
    "score_generated": f"predict --config stages/score_generated {_QUICK} --data.source=in/generated "
    f"--data.batch_size=12 --model.scorer=runs/score/fit-001/scorer {_CALLBACKS}=runs/scored "
    "--trainer.default_root_dir=runs/scored",
    "select": "select --scored=runs/scored --out=runs/select --tracker=null --rules.threshold=0.1",
    "personalize": f"fit --config stages/personalize {_FIT} --data.source=in/people --model.model=in/model "
    f"--data.image_size=[32,16] --data.batch_size=4 --data.cache_dir=runs/cache/latents "
    f"--data.prior.init_args.cache_dir=runs/cache/prior --data.prior.init_args.steps=2 --data.prior_batch_size=2 "
    f"--data.template='{TEMPLATE}' --model.fine_tuning.init_args.rank=2 --model.tokens.init_args.word=man "
    "--model.tokens.init_args.vectors=1 --trainer.callbacks.steps=1 --trainer.callbacks.images=1 "
    "--trainer.default_root_dir=runs/personalize",
    "generate": f"predict --config stages/generate {_QUICK} --data.source=in/people --model.model=in/personalized "
    f"--data.vocabulary=in/words.yaml --data.image_size=[32,16] --data.images_per_identity=2 --data.batch_size=3 "
    f"--model.steps=1 --model.template='{TEMPLATE}' --trainer.default_root_dir=runs/generate "
    "--trainer.callbacks='[GeneratedImagesWriter]' --trainer.callbacks.folder=runs/generate "
    "--trainer.callbacks+=ContactSheet",
    "convert": "convert in/weights.pth --form torchreid --backbone test_resnet --image_size 64 32 --out runs/converted",
    "check": "data check in/market.zip --decode",
    "sheet": "data sheet in/people --out runs/sheet.png",
    "export": "data export in/market.zip --format market1501 --out runs/export",
    "pipeline": "pipeline --config in/chain.yaml --jobs 1",
    "adapt": f"fit --config recipes/adapt {_FIT} --data.target=in/people --data.image_size=[64,32] "
    "--data.sampler.init_args.clusters_per_batch=2 --data.sampler.init_args.images_per_cluster=2 "
    "--data.sampler.init_args.batches=2 --model.backbone=test_resnet --model.init_from=null "
    "--model.clusterer.init_args.distance.init_args.k1=4 --model.clusterer.init_args.distance.init_args.k2=2 "
    "--trainer.default_root_dir=runs/adapt",
    "embed": "embed in/people --model runs/reid/fit-001 --out runs/features.parquet --num_workers 0",
    "search": "search in/people runs/features.parquet --model runs/reid/fit-001 --out runs/found --num_workers 0",
    "thresholds": "thresholds runs/reid/fit-001 --fmr 0.1 --num_workers 0",
    "onnx": "export runs/reid/fit-001 --out runs/network.onnx",
    "report": "report runs/reid/fit-001 --out runs/report.html",
    "browse": "data browse in/people --out runs/pages",
    "sweep": "sweep in/sweep.yaml --root runs/sweep --trials 1",
    "push": "push runs/reid/fit-001 somebody/network",
}
#: A chain of two quick commands.
_CHAIN = {
    "variables": {"root": "runs/chain", "data": "in/market"},
    "stages": {
        "caption": {
            "run": f"predict --config stages/caption {_QUICK} --data.source=in/market --data.batch_size=64",
            "data": ["data"],
            "makes": ["metadata.parquet"],
        },
        "train": {
            "run": f"fit {_REID} --data.train=in/market --trainer.default_root_dir=runs/chain/train",
            "reads": ["caption"],
            "makes": ["fit-001/backbone", "fit-001/results.csv"],
        },
    },
    "table": {"scratch": "train"},
    "pictures": {"rank lists": "train/fit-001/rank_lists_test.png"},
}
_SWEEP = {
    "method": "random",
    "metric": {"name": "val/mAP", "goal": "maximize"},
    "early_terminate": {"type": "hyperband", "min_iter": 2},
    "command": ["${env}", "${interpreter}", "-m", "diffreid_lightning", *shlex.split(COMMANDS["fit"]), "${args}"],
    "parameters": {
        "model.optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "model.losses.init_args.margin": {"min": 0.1, "max": 0.8},
        "model.backbone": {"values": ["test_resnet", "test_byobnet"]},
    },
}
#: The end of a training, however it is configured: the last words count.
BRIEF = (
    "--trainer.max_epochs=1", "--trainer.max_time=00:00:00:08", "--trainer.enable_progress_bar=false",
    "--trainer.limit_train_batches=2",
)  # fmt: skip
#: Commands whose whole configuration is written down, to be damaged.
CONFIGURED = ("fit", "caption", "score", "score_generated", "personalize", "generate", "select", "adapt")
_PARTIAL = {"caption": "caption", "generate": "generate", "score_generated": "scored"}


def words_of(command: str) -> list[str]:
    """Return the words of one of the :data:`COMMANDS`."""
    return shlex.split(COMMANDS[command])


@dataclass(frozen=True)
class _Ended:
    """A trial of a sweep that has ended."""

    code: int

    def poll(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        """Nothing is left to be told."""


def stages_here() -> None:
    """Let a chain run its stages in this process, and a sweep its trials."""

    def here(words: tuple[str, ...], environment: dict[str, str], log: Path) -> int:
        os.environ.update(environment)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("error: see above\n", encoding="utf-8")
        return main(list(words))

    def trial_here(words: Sequence[str], environment: Mapping[str, str], log: Path, *_: Any, **__: Any) -> _Ended:
        return _Ended(here((*words, *BRIEF), dict(environment), log))

    runner.run_logged = here  # type: ignore[assignment]
    trial_runner.start_process = trial_here


def build_inputs() -> None:
    """Write what the commands read, in the working folder."""
    folder = Path("in")
    market = write_market1501(folder / "market", train_ids=range(2, 6), test_ids=(1, 3), cameras=(1, 2))
    zip_folder(market, folder / "market.zip")
    write_people(folder / "people", images=2)
    write_generated(folder / "generated", market)
    write_vocabulary(folder / "words.yaml")
    torch.manual_seed(0)
    torch.save({"state_dict": Backbone("test_resnet").model.state_dict()}, folder / "weights.pth")
    _write_models(folder)
    for name, settings in (("chain", _CHAIN), ("sweep", _SWEEP)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _write_models(folder: Path) -> None:
    from tools.tiny_sd.tokenizer import train_tokenizer

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    train_tokenizer(CAPTIONS * 5, folder / "tokenizer", size=700, length=24)
    write_checkpoint(folder / "model", "sd1", folder / "tokenizer")
    write_personalized_model(folder / "personalized", folder / "model")


def _partly(command: str) -> None:
    """Run a stage that is resumed, up to its first batch; its folder is kept beside that of the whole one."""
    place = _PARTIAL[command]
    assert main([*words_of(command), "--trainer.limit_predict_batches=1"]) == 0
    Path("runs", place).rename(Path("runs", f"{place}-begun"))


def build_runs() -> None:
    """Write down whole configurations; train and evaluate, as ``fit`` and a chain do."""
    _print_configs(Path("in", "configs"))
    _run("fit", "pipeline", "embed")


def _print_configs(folder: Path) -> None:
    folder.mkdir()
    for name in CONFIGURED:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main([*words_of(name), "--print_config"]) == 0
        (folder / f"{name}.yaml").write_text(printed.getvalue(), encoding="utf-8")


def build_stages() -> None:
    """Run the stages one by one; those that are resumed also up to their first batch."""
    _run("score")
    for command in _PARTIAL:
        _partly(command)
    _run("caption", "score_generated", "select", "generate", "personalize")


def _run(*commands: str) -> None:
    for command in commands:
        code = main(words_of(command))
        assert code == 0, f"{command} ended with {code} in the world as it should be"
