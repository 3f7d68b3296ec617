"""Every recipe for a labelled dataset takes a step with its own network, image size and losses, from random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.reid.supervised import SupervisedReID

_RECIPES = sorted(path.stem for path in (configs_folder() / "recipes").glob("*_market1501.yaml"))
_LOGGED = {
    "agw_market1501": {"cross_entropy", "weighted_triplet", "accuracy"},
    "bot_market1501": {"cross_entropy", "triplet", "accuracy"},
    "memory_market1501": {"memory"},
    "mgn_market1501": {"circle_softmax", "triplet", "accuracy"},
    "transreid_market1501": {"cross_entropy", "triplet", "accuracy"},
}


@pytest.mark.parametrize("name", _RECIPES)
def test_a_step_of_the_recipe(
    name: str,
    command: Callable[..., int],
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: dict[str, Any] = {}
    compute = SupervisedReID.compute_losses

    def watch(self: SupervisedReID, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        total, values = compute(self, batch)
        seen.update(module=self, images=tuple(batch.images.shape), total=total.detach(), values=values)
        return total, values

    monkeypatch.setattr(SupervisedReID, "compute_losses", watch)
    words = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    words += ["--data.num_workers=0", "--data.sampler.identities_per_batch=2", "--data.sampler.images_per_identity=2"]
    words += ["--model.init_from=null", f"--data.train={market}"]
    assert command("fit", "--config", f"recipes/{name}", *words) == 0, capsys.readouterr().err

    written = yaml.safe_load((configs_folder() / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert seen["images"] == (4, 3, *written["data"]["init_args"]["image_size"])
    assert math.isfinite(seen["total"]) and set(seen["values"]) == _LOGGED[name]
    module = seen["module"]
    assert module.backbone.name == written["model"]["init_args"]["backbone"]
    assert module.trainer.global_step == 1
