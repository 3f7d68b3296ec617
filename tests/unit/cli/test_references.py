"""References between settings: resolved in what was written, put back in what is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import diffreid_lightning.registry  # noqa: F401 (its classes are named without a module)
from diffreid_lightning.cli import references
from diffreid_lightning.cli.command_config import read_configuration
from diffreid_lightning.cli.references import resolve_references
from diffreid_lightning.errors import UserError
from tests.fixtures.command_line import TINY

Command = Callable[..., int]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${trainer.epochs}", 3),
        ("of ${trainer.name} and ${trainer.epochs}", "of x and 3"),
        ("${trainer.${which}}", 3),
        ("${names[1]}", "b"),
        ("${names.0}", "a"),
        ("${..which}", "epochs"),
        ("${chain}", 3),
        ("${oc.env:DIFFREID_TEST}", "given"),
        ("${oc.env:DIFFREID_NONE,other}", "other"),
        (r"\${trainer.epochs}", "${trainer.epochs}"),
        (["${trainer.epochs}", {"deep": "${trainer.name}"}], [3, {"deep": "x"}]),
        ("${trainer.accumulate_grad_batches}", 1),
        ("$5 {identity}", "$5 {identity}"),
    ],
)
def test_references_are_resolved(text: object, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFREID_TEST", "given")
    written = {
        "trainer": {"epochs": 3, "name": "x"},
        "names": ["a", "b"],
        "which": "epochs",
        "chain": "${trainer.epochs}",
        "model": {"here": text},
    }
    before = copy.deepcopy(written)
    resolved = resolve_references(written)
    assert resolved["model"] == {"here": value}
    assert "accumulate_grad_batches" not in resolved["trainer"], "only looked up"
    assert written == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "${trainer.max_epoch}",
            ["leads nowhere", "no trainer.max_epoch", "did you mean ${trainer.max_epochs}"],
        ),
        ("${.nothing}", ["leads nowhere", "model.nothing"]),
        ("${names[7]}", ["leads nowhere", "names[7]"]),
        ("${model.here}", ["circle", "model.here"]),
        ("${model}", ["circle"]),
        ("${oc.env:DIFFREID_NONE}", ["DIFFREID_NONE", "not set", "${oc.env:DIFFREID_NONE,VALUE}"]),
        ("${trainer.max_epochs", ["cannot be read", "model.here", r"\${"]),
        ("${foo:1}", ["foo"]),
        ("${trainer.max_epochs.x}", ["leads nowhere"]),
    ],
)
def test_references_that_do_not_resolve_are_named(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve_references({"trainer": {"max_epochs": 3}, "names": ["a"], "model": {"here": text}})
    for word in words:
        assert word in str(caught.value)


def test_a_reference_follows_flags_and_links(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(
        "model:\n  warmup_epochs: ${trainer.max_epochs}\ndata:\n  num_workers: ${data.init_args.seed}\n"
        "trainer:\n  limit_test_batches: ${model.init_args.image_size[0]}\n"
    )
    words = ["--config", str(path), "--trainer.max_epochs=4", "--seed_everything=9", "--data={image_size: [96, 48]}"]
    resolved = read_configuration("fit", [*words, "--model.scheduler.T_max=${trainer.max_epochs}"]).resolved
    assert resolved["model"]["init_args"]["warmup_epochs"] == "4"
    assert resolved["trainer"]["limit_test_batches"] == 96, "which the model's size follows"
    assert resolved["model"]["init_args"]["scheduler"]["init_args"]["T_max"] == "4"
    assert resolved["data"]["init_args"]["num_workers"] == "9", "which the data's seed follows"


def test_a_class_that_is_named_alone_has_its_defaults() -> None:
    written = {"model": "SupervisedReID", "trainer": {"max_epochs": "${model.init_args.warmup_epochs}"}}
    resolved = resolve_references(written)
    assert (resolved["model"]["class_path"], resolved["trainer"]) == ("SupervisedReID", {"max_epochs": 0})


def test_references_come_back_where_they_still_hold() -> None:
    written = {
        "n": "${trainer.epochs}",
        "model": {"losses": [{"weight": 1}, {"weight": "${trainer.epochs}"}], "name": "of-${trainer.name}"},
        "given_since": "${trainer.epochs}",
        "outside": "${oc.env:HOME}",
        "restructured": {"x": "${trainer.epochs}"},
        "dangling": "${nowhere}",
        "plain": "text",
        "literal": r"\${trainer.epochs}",
    }
    resolved = {
        "trainer": {"epochs": 3, "name": "x"},
        "n": 3,
        "model": {"losses": [{"weight": 1}, {"weight": 3}], "name": "of-x"},
        "given_since": 4,
        "outside": "/root",
        "restructured": [3],
        "dangling": 1,
        "plain": "text",
        "literal": "${trainer.epochs}",
    }
    before = copy.deepcopy(resolved)
    kept = references.keep_references(resolved, written)
    assert resolved == before
    for key in ("trainer", "given_since", "outside", "restructured", "dangling", "plain"):
        assert kept[key] == resolved[key]
    for key in ("n", "model", "literal"):
        assert kept[key] == written[key]


def test_defaults_that_yaml_cannot_hold_survive_a_reference(command: Command, market: Path, tmp_path: Path) -> None:
    """The default's ``T_max: ${trainer.max_epochs}`` beside a device, a function and an enumeration."""
    average = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=1e-3"]
    timer = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:30:00"]
    words = [f"--data.train={market}", *TINY, "--trainer.logger=false", "--test_with=none", "--trainer.max_epochs=3"]
    words += ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    assert command("fit", *words, *average, *timer) == 0
    saved = tmp_path / "runs/reid/fit-001/config.yaml"
    callbacks = yaml.safe_load(saved.read_text())["trainer"]["callbacks"]
    assert callbacks[-2]["init_args"]["swa_lrs"] == 1e-3 and "device" not in callbacks[-2]["init_args"]
    assert callbacks[-1]["init_args"]["interval"] == "step"
    assert command("fit", "--config", saved, "--print_config") == 0, "it starts another run"
