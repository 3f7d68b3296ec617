"""The stages on a GPU, by the command line: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.checkpoint import load_personalized
from tests.fixtures.command_line import TINY
from tests.fixtures.diffusion import SIZE

Command = Callable[..., int]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or not asked for: -m gpu"),
]


@pytest.mark.parametrize("precision", [[], ["--trainer.precision=bf16-mixed", "--model.frozen_dtype=bfloat16"]])
def test_people_are_learnt_and_drawn(
    command: Command,
    checkpoints: dict[str, Path],
    people: Path,
    tmp_path: Path,
    precision: list[str],
) -> None:
    size = str(list(SIZE))
    words = [
        "fit", "--config=stages/personalize", "--trainer.logger=false", "--trainer.accelerator=gpu",
        "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=runs/test",
        f"--data.source={people}", "--data.identities=null", f"--data.image_size={size}", "--data.batch_size=4",
        "--data.prior.init_args.images_per_identity=1", "--data.prior.init_args.steps=2",
        f"--model.model={checkpoints['sd1']}", "--model.warmup_steps=1", "--model.tokens.init_args.word=man",
    ]  # fmt: skip
    assert command(*words, *precision) == 0
    model = tmp_path / "runs/test/fit-001/personalized"
    assert len(load_personalized(model).identities) == 4
    drawn, plans = {}, []
    for device in ("gpu", "cpu"):
        out = tmp_path / device
        draw = [
            "predict", "--config=stages/generate", f"--model.model={model}", f"--data.source={people}",
            "--data.images_per_identity=2", f"--data.image_size={size}", "--model.steps=3",
            "--model.diversity=NoDiversity", f"--trainer.accelerator={device}", f"--trainer.default_root_dir={out}",
            "--trainer.logger=false",
        ]  # fmt: skip
        assert command(*draw) == 0
        rows = Manifest.read(out)
        plans.append(rows.table.select(["file_name", "pid", "prompt", "seed", "attributes"]).to_pylist())
        drawn[device] = np.stack([np.asarray(rows.images.image(name)) for name in rows.table["file_name"].to_pylist()])
    difference = np.abs(drawn["gpu"].astype(int) - drawn["cpu"].astype(int))
    assert plans[0] == plans[1]
    assert difference.mean() < 3  # of 255; another seed's are 40 away


def test_a_reid_network_is_trained_and_evaluated(command: Command, market: Path, tmp_path: Path) -> None:
    words = [word for word in TINY if "accelerator" not in word]
    given = [f"--data.train={market}", "--trainer.accelerator=gpu", "--trainer.logger=false"]
    assert command("fit", *words, *given, "--trainer.default_root_dir=runs/test") == 0
    assert "mAP" in (tmp_path / "runs/test/fit-001/results.csv").read_text()
