"""Flags laid over config files: what replaces, what merges, what stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.cli.command_line_flags import split_flags, with_flags
from diffreid_lightning.errors import UserError


def settings() -> dict[str, Any]:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1, "weight_decay": 2}}
    model = {"class_path": "M", "init_args": {"optimizer": adam, "losses": ["L"], "source": {"class_path": "Subset"}}}
    return {"trainer": {"max_epochs": 3, "callbacks": [{"class_path": "A"}]}, "model": model}


def laid_over(*words: str) -> dict[str, Any]:
    given, _ = split_flags(words)
    return with_flags(settings(), given)


@pytest.mark.parametrize(
    ("words", "optimizer"),
    [
        (["--model.optimizer.lr=5"], {"class_path": "torch.optim.Adam", "init_args": {"lr": "5", "weight_decay": 2}}),
        (["--model.optimizer={lr: 5}"], {"class_path": "torch.optim.Adam", "init_args": {"lr": 5, "weight_decay": 2}}),
        (["--model.optimizer=SGD"], "SGD"),
        (["--model.optimizer=SGD", "--model.optimizer.lr=5"], {"class_path": "SGD", "init_args": {"lr": "5"}}),
        (["--model.optimizer={class_path: SGD}"], {"class_path": "SGD"}),
        (["--model.optimizer=opt.yaml"], {"class_path": "SGD", "init_args": {"lr": 0.5}}),
        (["--model.optimizer=Adam"], {"class_path": "torch.optim.Adam", "init_args": {"lr": 1, "weight_decay": 2}}),
        (["--model.optimizer=null"], "null"),
    ],
)  # fmt: skip
def test_a_class_named_by_a_flag_replaces_another_whole(
    words: list[str], optimizer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("opt.yaml").write_text("class_path: SGD\ninit_args: {lr: 0.5}\n")
    assert laid_over(*words)["model"]["init_args"]["optimizer"] == optimizer


def test_init_args_may_be_written_out_or_left_out() -> None:
    assert laid_over("--model.init_args.optimizer.init_args.lr", "5") == laid_over("--model.optimizer.lr=5")


def test_lists_are_replaced_or_added_to() -> None:
    assert laid_over("--trainer.callbacks+=B", "--trainer.callbacks.x=1")["trainer"]["callbacks"] == [
        {"class_path": "A"},
        {"class_path": "B", "init_args": {"x": "1"}},
    ]
    assert laid_over("--model.losses+=[K, {class_path: N}]")["model"]["init_args"]["losses"] == [
        "L",
        "K",
        {"class_path": "N"},
    ]
    assert laid_over("--trainer.callbacks=[B, C]", "--trainer.callbacks.x=1")["trainer"]["callbacks"] == [
        "B",
        {"class_path": "C", "init_args": {"x": "1"}},
    ]
    assert laid_over("--trainer.callbacks=[B]", "--trainer.callbacks+=C")["trainer"]["callbacks"] == ["B", "C"]
    assert laid_over("--trainer.callbacks=[B]")["trainer"]["callbacks"] == "[B]"


@pytest.mark.parametrize(
    ("before", "named"),
    [
        ({"callbacks": []}, "callbacks"),
        ({"callbacks": {"class_path": "A", "init_args": [1]}}, "init_args of A are [1]"),
    ],
)
@pytest.mark.parametrize("flag", ["trainer.callbacks.x", "trainer.callbacks.x.y"])
def test_a_flag_below_what_holds_no_arguments_is_refused(before: dict[str, Any], named: str, flag: str) -> None:
    with pytest.raises(UserError) as caught:
        with_flags({"trainer": before}, [(flag, "1")])
    assert f"--{flag} " in caught.value.what and named in str(caught.value)


def test_plain_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.yaml").write_text("colors: [red]\n")
    for text in ("{identity}", "[V] person", "words.yaml", "1e3", "", "/data/market", "${trainer.max_epochs}"):
        assert laid_over(f"--model.prompt={text}")["model"]["init_args"]["prompt"] == text
    assert laid_over("--model.source=/data/market")["model"]["init_args"]["source"] == "/data/market"
    assert settings() == with_flags(settings(), [])


def test_words_for_the_parser_are_kept_apart() -> None:
    words = ["--print_config", "--a.b", "-1", "--model.help", "M", "--data.help=D", "--c=--d"]
    assert split_flags(words) == (
        [("a.b", "-1"), ("c", "--d")],
        ["--print_config", "--model.help", "M", "--data.help=D"],
    )
    for wrong in (["a"], ["--a"], ["--a", "--b=1"]):
        with pytest.raises(UserError):
            split_flags(wrong)
