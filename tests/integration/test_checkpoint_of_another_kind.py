"""``--ckpt_path`` takes checkpoints of this package, and says what any other file is and what to do with it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from diffreid_lightning.backbones import Backbone, load_initial_weights
from diffreid_lightning.cli.checkpoint_checks import check_own
from diffreid_lightning.errors import UserError
from tests.fixtures.command_line import TINY

OWN: dict[str, Any] = {
    "pytorch-lightning_version": "2.6.0",
    "state_dict": {"neck.norm.weight": torch.ones(1)},
    "epoch": 0,
    "global_step": 1,
    "loops": {},
    "optimizer_states": [],
    "lr_schedulers": [],
}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in OWN.items() if key not in keys}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {"module.conv1.weight": torch.zeros(1)}, "epoch": 60}, "no 'pytorch-lightning_version'"),
        ({"base.conv1.weight": torch.zeros(1)}, "no 'state_dict'"),
        ({**OWN, "hyper_parameters": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({**OWN, "state_dict": None}, "state_dict is not an object"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ([1, 2], "a list"),
        (without("state_dict"), "no 'state_dict'"),
        (without("optimizer_states"), "no 'optimizer_states'"),
        (without("lr_schedulers", "loops"), "no 'loops' and no 'lr_schedulers'"),
        (b"", "an empty file"),
        (b"\x80\x02older", "older form"),
        (b"PK\x03\x04cut", "cut off"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<html>", "a web page"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "safetensors"),
    ],
)
def test_what_is_no_checkpoint_of_this_package_is_named(content: Any, found: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match="no checkpoint of this package") as caught:
        check_own(file, to_go_on=True)
    assert found in str(caught.value) and "do this" in str(caught.value)


def test_weights_alone_can_be_evaluated_and_not_gone_on_from(tmp_path: Path) -> None:
    torch.save(without("loops", "optimizer_states", "lr_schedulers"), tmp_path / "weights.ckpt")
    check_own(tmp_path / "weights.ckpt")
    torch.save(OWN, tmp_path / "whole.ckpt")
    check_own(tmp_path / "whole.ckpt", to_go_on=True)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_every_command_refuses_and_the_printed_conversion_works(
    verb: str, command: Callable[..., int], market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    torch.save({f"base.{name}": tensor for name, tensor in state.items()}, "theirs.pth")
    words = [word for word in TINY if verb == "fit" or "epoch" not in word]
    assert command(verb, *words, f"--data.train={market}", "--trainer.logger=false", "--ckpt_path=theirs.pth") == 2
    said = capsys.readouterr().err
    assert "theirs.pth is no checkpoint of this package" in said and "Traceback" not in said
    assert not Path("runs").exists()
    if verb == "fit":
        printed = re.search(r"diffreid_lightning (convert .*--out DIR)", said).group(1)
        assert command(*printed.replace("NAME", "test_resnet").replace("DIR", "ours").split()) == 0
        assert not load_initial_weights(Backbone("test_resnet", image_size=(64, 32)), "ours").is_partial


def test_safetensors_are_answered_with_their_conversion(tmp_path: Path) -> None:
    save_file({"base.conv1.weight": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match="--form reid-strong-baseline"):
        check_own(tmp_path / "theirs.safetensors")
