"""Reading a grid: entries, layers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.benchmark.grid_entries import name_of
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.errors import UserError
from tests.unit.benchmark.conftest import MakeGrid


def test_entries_are_read(make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "/mnt/market")
    numbers = {"supervised": {"market": [87.5, 95.1]}}
    grid = make_grid(
        {
            "datasets": {"market": {"path": "${oc.env:MINE,/data/market}"}},
            "published": [{"label": "ImageNet", "cite": "Fu et al.", "numbers": numbers}],
            "throughput": {"images_per_second": 345, "device": "A100", "source": "a log"},
        }
    )
    assert grid.root == tmp_path / "root" and grid.group == "root"
    assert grid.datasets["market"].path == "/mnt/market"
    assert grid.settings["UDA"].needs == "supervised" and grid.settings["UDA"].on_source
    assert grid.initializations["scratch"].init_from is None
    assert grid.published[0].numbers["supervised", "market"] == (87.5, 95.1)
    assert grid.throughput is not None and grid.throughput.images_per_second == 345


def test_a_row_is_left_out_by_null(make_grid: MakeGrid) -> None:
    assert list(make_grid({"initializations": {"ready weights": None}}).initializations) == ["scratch", "Diff-Person"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"setings": {}}, "did you mean 'settings'"),
        ({"seeds": [0, 0]}, "names one twice"),
        ({"seeds": "0"}, "no list of numbers"),
        ({"seeds": [-1]}, "must be at least 0"),
        ({"against": "scrach"}, "did you mean 'scratch'"),
        ({"settings": {"direct": {"needs": "UDA@source"}}}, "cannot need 'UDA'"),
        ({"settings": {"direct": {"needs": "superviced@source"}}}, "did you mean 'supervised'"),
        ({"settings": {"USL": {"run": ""}}}, "says nothing to run"),
        ({"settings": {"USL": {"run": "fit 'a"}}}, "close its quotes"),
        ({"settings": {"UDA": {"pairs": ["market"]}}}, "no list of pairs"),
        ({"settings": {"UDA": {"pairs": [["market", "duk"]]}}}, "did you mean 'duke'"),
        ({"settings": {"UDA": {"pairs": [["duke", "duke"]]}}}, "each of two different datasets"),
        ({"settings": {"few-shot 30 %": {"subset": {"image": 0.1}}}}, "did you mean 'images'"),
        ({"settings": {"u.s.l": {"run": "fit"}, "u s l": {"run": "fit"}}}, "makes no name of its own"),
        ({"datasets": {"market": {"path": None}}}, "has no path"),
        ({"datasets": {"market": None, "duke": None}}, "has no datasets"),
        ({"preparations": {"seed": {"run": "fit"}}}, "cannot be called 'seed'"),
        ({"initializations": {"Made": {"init_from": None}}}, "called 'made'"),
        ({"initializations": {"scratch": {"settings": ["ULS"]}}}, "did you mean 'USL'"),
        ({"initializations": {"ours": {"pretrained_on": "/data"}}}, "looked for: pretrain: fit --config CONFIG"),
        ({"initializations": {"scratch": {"made_from": ["markte"]}}}, "did you mean 'market'"),
        ({"throughput": {"images_per_second": 5}}, "is not a measurement"),
        ({"published": [{"label": "x", "cite": "y", "numbers": {"direct": {"a": [1]}}}]}, "is not mAP and Rank-1"),
        ({"published": [{"label": "x", "cite": "y", "numbers": {"direct": {"a": [1, 101]}}}]}, "is not mAP and Rank-1"),
        ({"root": "${oc.env:NOBODY_SETS_THIS}"}, "give a default behind a comma"),
        ({"group": ["a"]}, "'group' of"),
        ({"flags": ["--a", "1"]}, "'flags' of"),
        ({"published": {"label": "x"}}, "'published' of"),
        ({"published": 5}, "is no list"),
        ({"datasets": {"market": {"images": "many"}}}, "no whole number"),
        ({"preparations": {"generated": {"labels": "no"}}}, "'labels' of"),
        ({"settings": {"USL": {"labels": 1}}}, "looked for: true or false or source"),
        ({"settings": {"USL": {"run": ["fit"]}}}, "'run' of"),
        ({"settings": {"USL": {"flags": {"market": ["--a"]}}}}, "is no text"),
        ({"settings": {"few-shot 30 %": {"subset": {"images": "0.3"}}}}, "'images' of the subset"),
        ({"settings": {"few-shot 30 %": {"subset": {"seed": "{sead}"}}}}, "a whole number, or"),
        ({"settings": {"few-shot 30 %": {"subset": {"images": None, "list_file": 5}}}}, "list_file: FILE"),
        ({"initializations": {"scratch": {"init_from": ["a", "b"]}}}, "'init_from' of"),
        ({"initializations": {"scratch": {"init_from": ""}}}, "or null for none"),
        ({"initializations": {"scratch": {"pretrained_on": ["a", "b"]}}}, "'pretrained_on' of"),
    ],
)
def test_what_a_grid_does_not_have_is_refused(make_grid: MakeGrid, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        make_grid(changes)
    assert words in str(refused.value)


def test_data_outside_the_grid_may_be_a_version_of_one_inside(make_grid: MakeGrid) -> None:
    grid = make_grid({"initializations": {"scratch": {"made_from": ["market-500", "imagenet"]}}})
    assert grid.initializations["scratch"].made_from == ("market-500", "imagenet")


def test_a_config_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean --config benchmark/quick"):
        read_grid(["benchmark/quik"])


def test_rows_are_chosen_on_val_where_every_setting_trains(make_grid: MakeGrid) -> None:
    with pytest.raises(UserError, match=r"'direct' .* is not evaluated by"):
        make_grid({"evaluate": "val"})
    with pytest.raises(UserError, match="'evaluate'"):
        make_grid({"evaluate": "train"})
    assert make_grid({"evaluate": "val", "settings": {"direct": None}}).evaluate == "val"
    with pytest.raises(UserError, match="would be validated on the data of 'supervised'"):
        make_grid({"evaluate": "val", "settings": {"direct": {"run": "validate --ckpt_path {needed}"}}})
    with pytest.raises(UserError, match=r"run: test"):
        make_grid({"settings": {"supervised": {"run": "validate --config stages/transfer"}}})
    assert make_grid().evaluate == "test"


def test_names_are_parts_of_files() -> None:
    assert name_of("few-shot, 30 %") == "few-shot-30"
    assert name_of("†") == ""
