"""Layering: what names a class replaces, what does not merges."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffreid_lightning import config_files
from diffreid_lightning.errors import UserError


def test_named_class_leaves_nothing_of_the_default() -> None:
    lower = {"model": {"class_path": "A", "init_args": {"x": 1, "y": 2}}, "trainer": {"max_epochs": 3, "devices": 1}}
    upper = {"model": {"class_path": "A", "init_args": {"x": 5}}, "trainer": {"max_epochs": 9}}
    merged = config_files.merge_layers(lower, upper)
    assert merged["model"] == {"class_path": "A", "init_args": {"x": 5}}
    assert merged["trainer"] == {"max_epochs": 9, "devices": 1}
    assert lower["trainer"]["max_epochs"] == 3


def test_mapping_without_class_merges_and_lists_replace() -> None:
    lower = {"model": {"class_path": "A", "init_args": {"x": 1, "losses": [1, 2]}}}
    merged = config_files.merge_layers(lower, {"model": {"init_args": {"losses": [3]}}})
    assert merged == {"model": {"class_path": "A", "init_args": {"x": 1, "losses": [3]}}}


def test_arguments_of_a_class_that_lies_below_need_no_init_args() -> None:
    lower = {
        "model": {"class_path": "A", "init_args": {"x": 1, "optimizer": {"class_path": "B", "init_args": {"lr": 1}}}}
    }
    short = {"model": {"y": 2, "optimizer": {"lr": 3}}}
    long = {"model": {"init_args": {"y": 2, "optimizer": {"init_args": {"lr": 3}}}}}
    assert config_files.merge_layers(lower, short) == config_files.merge_layers(lower, long)
    assert config_files.merge_layers(lower, {"model": {"y": 2, "init_args": {"x": 5}}})["model"]["init_args"]["x"] == 5
    assert config_files.merge_layers({"data": {"a": 1}}, {"data": {"b": 2}}) == {"data": {"a": 1, "b": 2}}


@pytest.mark.parametrize("words", [["--config", "a", "--x=1", "-c", "b"], ["--config=a", "--x=1", "--config=b"]])
def test_config_flags_are_split_in_order(words: list[str]) -> None:
    assert config_files.split_config_flags(words) == (["a", "b"], ["--x=1"])


def test_config_flag_without_file() -> None:
    with pytest.raises(UserError, match="no file after it"):
        config_files.split_config_flags(["--config"])


@pytest.mark.parametrize("name", ["recipes/bot_market1501", "recipes/bot_market1501.yaml", "default"])
def test_packaged_configs_are_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_files.find_config(name).is_file()


@pytest.mark.parametrize("stage", ["caption", "caption_blip2"])
@pytest.mark.parametrize("path", [None, "~/lists/a=1, b.txt", "Köpfe/liste.txt", "null.txt"])
def test_a_list_file_may_have_any_path(stage: str, path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if path is None:
        monkeypatch.delenv("DIFFREID_LIST_FILE", raising=False)
    else:
        monkeypatch.setenv("DIFFREID_LIST_FILE", path)
    settings = OmegaConf.load(config_files.find_config(f"stages/{stage}"))
    assert settings.data.init_args.source.init_args.list_file == path


def test_unknown_config_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        config_files.find_config("recipes/bot_market")
    assert "did you mean --config recipes/bot_market1501?" in str(caught.value)
    for name, guess in (("bot_market.yaml", "recipes/bot_market1501"), ("pretrane", "stages/pretrain")):
        with pytest.raises(UserError) as caught:
            config_files.find_config(name)
        assert f"did you mean --config {guess}?" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "a:\n\t- b"])
def test_broken_yaml_is_the_users_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        config_files.load_config(path)


def test_a_key_with_plus_adds_to_a_list() -> None:
    lower = {"trainer": {"callbacks": ["A"]}, "model": {"class_path": "M", "init_args": {"losses": ["L"]}}}
    merged = config_files.merge_layers(lower, {"trainer": {"callbacks+": ["B"]}, "model": {"losses+": "K"}})
    assert merged["trainer"] == {"callbacks": ["A", "B"]}
    assert merged["model"]["init_args"] == {"losses": ["L", "K"]}


def test_changed_settings_are_named_with_both_values() -> None:
    before = (
        "trainer: {max_epochs: 3, devices: 1, callbacks: [{class_path: B}]}\nmodel: {class_path: A}\nckpt_path: null\n"
    )
    now = (
        "trainer: {max_epochs: 5, devices: 1, callbacks: [{class_path: C}]}\n"
        "model: {class_path: A, init_args: {x: 1}}\nckpt_path: last\n"
    )
    assert [str(change) for change in config_files.changed_settings(before, now)] == [
        "trainer.max_epochs 3 -> 5",
        "trainer.callbacks.0.class_path B -> C",
        "model.init_args.x None -> 1",
    ]
    assert config_files.changed_settings("a: [", now) == []


def test_a_section_without_lines_keeps_what_lies_below(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("trainer:\n#  max_epochs: 3\ndata:\nmodel:\n  init_args: {feature: before_bn}\n")
    assert config_files.load_config(tmp_path / "own.yaml") == {"model": {"init_args": {"feature": "before_bn"}}}


def test_arguments_without_lines_keep_what_lies_below() -> None:
    lower = {"model": {"class_path": "A", "init_args": {"x": 1}}}
    assert config_files.merge_layers(lower, {"model": {"init_args": None}}) == lower
