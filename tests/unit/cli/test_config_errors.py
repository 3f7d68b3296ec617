"""Mistakes in nested classes: one sentence that names the setting, and no dump of types."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from diffreid_lightning.cli import config_errors, lightning_cli, value_errors
from diffreid_lightning.cli.command_config import read_configuration
from diffreid_lightning.cli.lightning_parser import TOP_LEVEL
from diffreid_lightning.errors import UserError

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "a schedule's argument": ("model: {scheduler: {class_path: StepLR}}", ["'model.scheduler'", "StepLR", "step_size"]),
    "a callback's argument": ("trainer: {callbacks: [EarlyStopping]}", ["trainer.callbacks[0]", "needs monitor"]),
    "a model's argument": ("model: GenerationModule", ["'model'", "needs model"]),
    "arguments of text": (
        "data: {train: {class_path: miniperson, init_args: {a: 1}}}",
        ["'data.train'", "no arguments"],
    ),
    "no such class in a list": ("model: {losses: [{class_path: Nope}]}", ["model.losses[0]", "does not exist"]),
    "a class of another kind": (
        "model: {optimizer: torch.nn.Linear}",
        ["'model.optimizer' cannot be the class Linear", "Optimizer"],
    ),
    "an abstract class": ("model: {losses: [ReIDLoss]}", ["abstract", "BatchHardTriplet"]),
    "one name of two classes": ("model: {scheduler: ReduceLROnPlateau}", ["two classes", "torch.optim.lr_scheduler."]),
    "a list for a class": ("data: {sampler: [PKSampler]}", ["--data.sampler", "Sampler, or class_path"]),
    "a class for a list": ("model: {losses: {class_path: BatchHardTriplet}}", ["--model.losses", "a list of"]),
    "a number deep inside": (
        "data: {train: [{class_path: Subset, init_args: {dataset: miniperson, images: many}}]}",
        ["--data.train.images", "'many'", "a number"],
    ),
    "an optimizer's number": ("model: {optimizer: {lr: fast}}", ["--model.optimizer.lr", "a number"]),
    "init_args misspelt": ("model: {optimizer: {class_path: SGD, init_arg: {lr: 1}}}", ["did you mean 'init_args'"]),
    "arguments beside class_path": (
        "model: {optimizer: {class_path: SGD, lr: 1}}",
        ["optimizer.lr", "under init_args"],
    ),
    "init_args of no mapping": (
        "model: {optimizer: {class_path: SGD, init_args: [1]}}",
        ["'model.optimizer.init_args'"],
    ),
    "dict_kwargs nobody takes": ("model: {dict_kwargs: {foo: 1}}", ["'model.foo' is not a setting"]),
    "a setting below a word": ("model: {pooling: {class_path: gem, init_args: {p: 3}}}", ["'model.pooling.p'"]),
    "null for a number": (
        "trainer: {callbacks: [{class_path: RunCheckpoint, init_args: {every_n_epochs: null}}]}",
        ["every_n_epochs", "null"],
    ),
    "null for two numbers": ("data: {image_size: null}", ["--data.image_size", "null", "[256,128]"]),
    "null in a list": ("trainer: {callbacks: [RunCheckpoint, null]}", ["--trainer.callbacks"]),
    "a list for the model": ("model: [a]", ["'model' cannot be"]),
    "left open in a list": (
        "data: {train: [{class_path: Subset, init_args: {dataset: '???'}}]}",
        ["add --data.train.dataset VALUE"],
    ),
    "left open as an entry": ("data: {train: [miniperson, '???']}", ["add --data.train VALUE"]),
    "no date": ("trainer: {max_epochs: '2024-31-12'}", ["--trainer.max_epochs", "a whole number"]),
    "a number for the trainer": ("trainer: 3", ["'trainer' cannot be 3"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_sentence_names_the_setting(mistake: str, tmp_path: Any) -> None:
    text, words = MISTAKES[mistake]
    path = tmp_path / "my.yaml"
    path.write_text(text)
    try:
        resolved = read_configuration("fit", ["--config", str(path)]).resolved
        error = config_errors.explain(resolved, resolved) or value_errors.explain(resolved, TOP_LEVEL)
    except UserError as refused:
        error = refused
    assert error is not None
    for word in words:
        assert word in str(error)
    assert max(map(len, str(error).splitlines())) < 400, "no dump of types or values"


@pytest.mark.parametrize(
    "text", ["{}", "model: {optimizer: {class_path: SGD, init_args: null}}", "model: {init_from: null}"]
)
def test_nothing_is_found_where_nothing_is_wrong(text: str, tmp_path: Any) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(text)))
    resolved = read_configuration("fit", ["--config", str(path)]).resolved
    assert config_errors.explain(resolved, resolved) is None and value_errors.explain(resolved, TOP_LEVEL) is None


def test_a_package_that_is_missing_behind_a_class_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extra_losses.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = config_errors.explain({"model": "extra_losses.Mine"}, ["model"])
    assert error is not None and error.remedy == "pip install no_such_package_at_all"


def test_the_parsers_own_words_are_left_without_types() -> None:
    text = config_errors.readable(
        'Parser key "model":\n  - Type typing.Callable[[int], str] expects a function or a callable class: no\n'
        "    Given value: {'class_path': 'X'}\n  Given value type: <class 'dict'>\n"
    )
    assert text == "--model: no"


assert lightning_cli  # registers the classes that are named without a path


@pytest.mark.parametrize(
    ("given", "meant"),
    [("fp16", "16-mixed"), ("half", "16-mixed"), ("bfloat16", "bf16-mixed"), ("bf16-tru", "bf16-true")],
)
def test_a_precision_by_another_name_is_known(given: str, meant: str) -> None:
    error = value_errors.explain({"trainer": {"precision": given}}, {})
    assert error is not None and error.remedy == f"did you mean --trainer.precision {meant}?"


@pytest.mark.parametrize(("arguments", "nulls"), [([{"backbone": None}], True), ("backbone", False), (3, False)])
def test_arguments_that_are_no_settings_are_named(arguments: object, nulls: bool) -> None:
    settings = {"model": {"class_path": "SupervisedReID", "init_args": arguments}}
    error, of_nulls = value_errors.explain(settings, {}), value_errors.explain_nulls(settings, {})
    assert error is not None and "--model.init_args cannot be" in error.what
    assert (of_nulls is not None and "--model.init_args cannot be" in of_nulls.what) == nulls
