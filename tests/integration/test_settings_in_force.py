"""What a config or a flag says is in force, or refused: nothing is overruled in silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule

from diffreid_lightning.cli import lightning_cli, run_folder
from diffreid_lightning.cli.command_config import read_configuration
from diffreid_lightning.cli.lightning_parser import LayeredParser
from diffreid_lightning.cli.run_record import place_logger
from diffreid_lightning.errors import UserError

Command = Callable[..., int]
OWN = {
    "torch.optim.SGD": {"momentum": 0.0, "nesterov": False},
    "torch.optim.AdamW": {"betas": (0.9, 0.999)},
    "RMSprop": {"alpha": 0.99},
}
#: every class of the package that has an optimizer as the default of an argument, with what it needs beside
TRAINED: dict[str, dict[str, Any]] = {
    "SupervisedReID": {},
    "ScorerTraining": {},
    "Personalization": {"model": "somewhere"},
    "tools.tiny_sd.autoencoder.AutoencoderTraining": {"architecture": {}},
}


@pytest.fixture(scope="module")
def parser() -> LayeredParser:
    made = LayeredParser()
    made.add_subclass_arguments(LightningModule, "model", fail_untyped=False)
    made.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    return made


def parsed(parser: LayeredParser, optimizer: Any, owner: str = "SupervisedReID") -> Any:
    model = {"class_path": owner, "init_args": {**TRAINED[owner], "optimizer": optimizer}}
    return parser.parse_object({"model": model, "data": {"class_path": "ReIDDataModule"}}).model.init_args.optimizer


@pytest.mark.parametrize("owner", TRAINED)
@pytest.mark.parametrize("form", ["mapping", "text"])
@pytest.mark.parametrize("name", OWN)
def test_a_named_optimizer_has_its_own_defaults(parser: LayeredParser, owner: str, form: str, name: str) -> None:
    found = parsed(parser, {"class_path": name} if form == "mapping" else name, owner)
    own = inspect.signature(getattr(torch.optim, name.rpartition(".")[2])).parameters
    for argument in ("lr", "weight_decay"):
        assert found.init_args[argument] == own[argument].default


def test_the_hidden_default_stays_where_no_class_is_named(parser: LayeredParser) -> None:
    assert parsed(parser, {"lr": 0.2}).init_args.weight_decay == 5e-4
    assert parsed(parser, {"init_args": {"weight_decay": 0.1}}).init_args.lr == 3.5e-4
    again = parsed(parser, {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.2}}).init_args
    assert (again.lr, again.weight_decay) == (0.2, 0)


@pytest.mark.parametrize("words", [["--model.optimizer=AdamW"], ["--config=other.yaml"]])
def test_a_named_optimizer_keeps_nothing_of_the_default_config(
    words: list[str], command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("other.yaml").write_text("model:\n  optimizer:\n    class_path: torch.optim.AdamW\n")
    assert command("fit", *words, "--print_config") == 0
    shown = yaml.safe_load(capfd.readouterr().out)["model"]["init_args"]["optimizer"]
    assert shown["class_path"] == "torch.optim.AdamW"
    assert (shown["init_args"]["lr"], shown["init_args"]["weight_decay"]) == (1e-3, 1e-2)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.image_size=[128,64]"],
        ["--model.init_args.image_size", "[128, 64]"],
        ["--model={init_args: {image_size: [128, 64]}}"],
        ["--model.dict_kwargs.image_size=[128,64]"],
        ["--config=size.yaml"],
    ],
)
def test_an_image_size_of_the_models_own_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("size.yaml").write_text("model:\n  class_path: SupervisedReID\n  init_args: {image_size: [128, 64]}\n")
    with pytest.raises(UserError, match=r"data's.*(\n.*)*--data.image_size"):
        read_configuration("fit", words)
    same = read_configuration("fit", [*words, "--data.image_size=[128,64]"])
    assert "image_size" not in str(same.resolved["model"]), "it follows the data's"


@pytest.mark.parametrize(
    ("command_name", "words", "named"),
    [
        ("fit", ["--weights_only=false"], "weights_only"),
        ("predict", ["--return_predictions=true"], "return_predictions"),
        ("test", ["--verbose=false"], "ResultsTable"),
    ],
)
def test_what_every_command_decides_itself_is_refused(command_name: str, words: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        read_configuration(command_name, words)


def test_what_says_the_same_is_left_out() -> None:
    words = ["--weights_only=true", "--verbose=true"]
    assert {"weights_only", "verbose"}.isdisjoint(read_configuration("test", words).resolved)


def test_a_seed_of_the_datas_own_is_taken_and_saved(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[lightning_cli.DiffReIDCLI] = []
    monkeypatch.setattr(lightning_cli.DiffReIDCLI, "_run_subcommand", lambda self, _: built.append(self))
    for more in (["--data.seed=5"], ["--seed_everything=true"]):
        assert command("fit", "--trainer.logger=false", "--trainer.accelerator=cpu", *more) == 0
    own, drawn = built
    saved = [yaml.safe_load(cli.save_config_kwargs["text"]) for cli in built]
    assert (own.datamodule.seed, saved[0]["data"]["init_args"]["seed"], saved[0]["seed_everything"]) == (5, 5, 0)
    assert saved[1]["seed_everything"] is not True and drawn.datamodule.seed == saved[1]["seed_everything"]
    assert "seed" not in saved[1]["data"]["init_args"], "it follows"


def test_a_random_seed_is_refused_where_processes_would_choose_different_ones(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("fit", "--seed_everything=true") == 2
    assert "--seed_everything 1" in capfd.readouterr().err


def test_a_logger_keeps_the_name_that_it_was_given(tmp_path: Path) -> None:
    run = run_folder.RunFolder(tmp_path, "id", 2)
    csv = Namespace(save_dir=".", name="lightning_logs", version=None)
    place_logger("lightning.pytorch.loggers.CSVLogger", csv, run)
    assert vars(csv) == {"save_dir": str(tmp_path), "name": run_folder.METRICS, "version": "attempt-2"}
    named = Namespace(save_dir=".", name="mine", version="v")
    place_logger("lightning.pytorch.loggers.CSVLogger", named, run)
    assert vars(named) == {"save_dir": str(tmp_path), "name": "mine", "version": "v"}
    without = Namespace(api_key=None)
    place_logger("lightning.pytorch.loggers.NeptuneLogger", without, run)
    assert vars(without) == {"api_key": None}


assert lightning_cli  # registers the classes that are named without a path
