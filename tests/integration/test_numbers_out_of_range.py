"""Numbers of the right type beyond sense: each constructor that a configuration can name states its range."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diffreid_lightning
from diffreid_lightning.cli import trainer_checks
from diffreid_lightning.errors import (
    UserError,
    check_image_size,
    check_pair,
    check_range,
    check_seed,
    check_workers,
)

Command = Callable[..., int]
ODD = (-1, 0, float("nan"), float("inf"), 10**9)
_LABELS = [0, 0, 1, 1, 2, 2, 3, 3] * 4
#: What a class cannot be made without; those that a configuration cannot name are left out.
NEEDED: dict[str, dict[str, Any]] = {
    "CaptionWriter": {"folder": "x"},
    "GeneratedImagesWriter": {"folder": "x"},
    "Subset": {"dataset": "miniperson"},
    "PromptsDataModule": {"source": "miniperson"},
    "ScoringDataModule": {"source": "miniperson"},
    "PKSampler": {"labels": _LABELS, "identities_per_batch": 2, "images_per_identity": 2},
    "RowAdamW": {"params": [torch.nn.Parameter(torch.zeros(2))]},
    "SampleSheets": {"prompts": ["x"]},
    "DiffPersonSelection": {"scored": "x", "rules": []},
    "Backbone": {"name": "test_resnet", "image_size": (64, 32)},
    "ImageDataModule": {"source": "miniperson"},
    "SupervisedReID": {"backbone": "test_resnet", "image_size": (64, 32)},
    "ScorerTraining": {"backbone": "test_resnet", "image_size": (64, 32)},
    "PersonalizationDataModule": {"image_size": (64, 32)},
    "KMeans": {"clusters": 2},
    "ClusterSampler": {"labels": _LABELS},
    "MutualMeanTeaching": {"backbone": "test_resnet", "image_size": (64, 32)},
}
#: Made of folders of weights, whose numbers the tests of their modules try; and not named by configurations.
LEFT_OUT = {
    "TransformersCaptioner", "GenerationModule", "Personalization", "TextToImageTraining", "AutoencoderTraining",
    "CaptionedLatentsDataModule", "PerceptualDistance", "ReIDScorer", "PersonImages", "ManifestImages", "ShuffledRows",
    "RemainingBatches", "StageDataModule", "CaptionReader", "IdentityTokens", "InjectedEmbedding", "PriorImages",
    "PromptCache", "Sampler", "TokenMapper", "FileLock", "Calibration", "FoldNetwork", "Selection", "NearestEntries",
    "BNNeck", "FlatThenCosine", "IdentityClassifier", "InstanceBatchNorm", "MultiGranularityResNet", "NonLocal",
    "PartHead", "MetricLoss", "ReIDLoss", "ReIDModule", "WarmUp", "DiffReIDCLI", "RunProgress", "RunFolder",
    "BatchStore", "DecodedImages", "Descriptor", "ForkedCommand", "JobRunner", "ProcessSampler",
    "ConsistencyDistillation", "PictureBudget", "StageJobs", "TrialRunner", "AttributeNetwork", "HeldPipeline",
}  # fmt: skip
_NONE, _MANY, _NONE_OR_MANY = (0,), (10**9,), (0, 10**9)
#: By argument, or by class and argument, the odd numbers that have a meaning: 0 switches off, many are all there are.
TAKEN: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("agreement", "drop", "drop_circumstances", "drop_path_rate", "dropout", "erasing"), _NONE),
    **dict.fromkeys(("flip", "pad", "color", "color_probability", "erasing_area", "smoothing", "quantile"), _NONE),
    **dict.fromkeys(("guidance", "threads", "waiting", "num_workers", "val_share", "generated_share", "betas"), _NONE),
    **dict.fromkeys(("near_copy", "real", "generated", "full", "prior_batch_size", "spread", "share"), _NONE),
    **dict.fromkeys(("attribute_weight", "identity_weight", "reading_weight"), _NONE),
    **dict.fromkeys(("every_n_epochs", "batch_size", "eval_batch_size", "draw_at_once", "identities", "cap"), _MANY),
    **dict.fromkeys(("every_seconds", "seed", "lr", "eps", "weight_decay", "floor", "weight"), _NONE_OR_MANY),
    "margin": _MANY,
    **dict.fromkeys(("AngularMargin.margin", "cosine_margin"), _NONE),
    **dict.fromkeys(("CircleLoss.margin", "CircleSoftmax.margin"), ()),
    "scale": _MANY,
    "warmup_epochs": _NONE_OR_MANY,
    "threshold": (-1, 0),
    "RankLists.every_n_epochs": _NONE_OR_MANY,
    "FreezeBackbone.epochs": _NONE_OR_MANY,
    **dict.fromkeys(("ClusterMemory.momentum", "push", "decay"), _NONE),
    **dict.fromkeys(("ClusterMemory.temperature",), _MANY),
    **dict.fromkeys(("soft_memory", "soft_triplet"), _NONE_OR_MANY),
    "DBSCAN.eps": (),
    "DBSCAN.min_samples": _MANY,
    "KMeans.clusters": _MANY,
    "confidence": _NONE,
    "ContactSheet.generated": (),
    "ContactSheet.identities": (),
    "IdentitySheets.identities": (),
}


def _cases() -> Iterator[Any]:
    for module in pkgutil.walk_packages(diffreid_lightning.__path__, "diffreid_lightning."):
        if module.name.endswith("__main__") or ".miniperson." in module.name:
            continue
        for name, cls in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(cls) and cls.__module__ == module.name and "__init__" in vars(cls)
            if not own or name.startswith("_") or name in LEFT_OUT or "__dataclass_fields__" in vars(cls):
                continue
            for argument in inspect.signature(cls).parameters.values():
                kind = str(argument.annotation)
                if re.search(r"\b(int|float)\b", kind) and "Sequence" not in kind:
                    yield pytest.param(cls, argument.name, "tuple" in kind, id=f"{name}.{argument.name}")


@pytest.mark.parametrize(("cls", "argument", "pair"), _cases())
def test_a_number_beyond_sense_is_refused_by_whom_it_was_given(cls: type, argument: str, pair: bool) -> None:
    taken = []
    for odd in ODD:
        given = {**NEEDED.get(cls.__name__, {}), argument: (odd, odd) if pair else odd}
        try:
            cls(**given)
        except UserError as error:
            assert str(odd) in str(error) or f"{odd:,}" in str(error), "it says what was given"
        else:
            taken.append(odd)
    expected = TAKEN.get(f"{cls.__name__}.{argument}", TAKEN.get(argument, ()))
    assert taken == list(expected)


@pytest.mark.parametrize("odd", [-1, float("nan"), float("inf"), -float("inf")])
def test_a_range_is_closed_where_nothing_else_is_said(odd: float) -> None:
    with pytest.raises(UserError, match="x must be at least 0 and at most 1"):
        check_range("x", odd, 0, 1)
    with pytest.raises(UserError, match="x must be"):
        check_range("x", odd)
    check_range("x", 0, 0, 1)
    check_range("x", 1, 0, 1)
    check_range("x", None)


def test_ends_that_are_left_out() -> None:
    with pytest.raises(UserError, match="greater than 0"):
        check_range("x", 0, 0, above=True)
    with pytest.raises(UserError, match="less than 1"):
        check_range("x", 1, 0, 1, below=True)
    check_pair("x", (1, 1), 0, 1)
    with pytest.raises(UserError, match="two different numbers"):
        check_pair("x", (1, 1), 0, 1, apart=True)


@pytest.mark.parametrize(
    ("check", "value"),
    itertools.chain(
        ((check_seed, value) for value in (-1, 2**32)),
        ((check_workers, value) for value in (-1, 10**9)),
        ((check_image_size, value) for value in ((0, 5), (5,), (5.5, 5), (10**6, 5))),
        ((lambda name, values: check_pair(name, values, 0, 1), value) for value in ((1, 0), (0, 2), (0,))),
    ),
)
def test_what_has_a_range_of_its_own(check: Any, value: Any) -> None:
    with pytest.raises(UserError, match="x must be"):
        check("x", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("check_val_every_n_epoch", 0), ("accumulate_grad_batches", 0), ("accumulate_grad_batches", -1),
        ("devices", 1000), ("devices", "1000"), ("num_nodes", 100), ("num_nodes", 0), ("max_epochs", -2),
        ("limit_train_batches", 2.5), ("limit_val_batches", -1), ("overfit_batches", float("nan")),
        ("gradient_clip_val", float("nan")), ("gradient_clip_val", -1.0), ("val_check_interval", 0),
        ("val_check_interval", 1.5), ("log_every_n_steps", -1), ("num_sanity_val_steps", -2),
    ],
)  # fmt: skip
def test_the_trainers_numbers_have_ranges(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in trainer_checks._CLUSTER:
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=rf"trainer\.{name}"):
        trainer_checks.check({"accelerator": "cpu", name: value})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"limit_train_batches": 0}, "limit_train_batches"),
        ({"limit_train_batches": 0.0}, "limit_train_batches"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"min_epochs": 3, "max_epochs": 1}, "min_epochs"),
        ({"min_steps": 3, "max_steps": 1}, "min_steps"),
    ],
)
def test_a_training_of_nothing_is_refused_at_its_start(
    given: dict[str, Any], name: str, tmp_path: Path, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{name} is"):
        trainer_checks.check(given, training=True)
    trainer_checks.check(given)
    trainer_checks.check({**given, "fast_dev_run": 1}, training=True)
    trainer_checks.check({"max_epochs": -1, "max_steps": -1, "min_epochs": 3, "min_steps": 3}, training=True)
    if name == "max_steps":
        assert command("fit", "--data.train=miniperson", "--trainer.accelerator=cpu", "--trainer.max_steps=0") == 2
        assert "trainer.max_steps is 0" in capfd.readouterr().err
        assert not list(tmp_path.rglob("backbone"))


def test_what_the_trainer_takes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "one.of.many")
    good = {"max_epochs": -1, "max_steps": -1, "devices": 2, "num_nodes": 4, "limit_train_batches": 0.5}
    good |= {"overfit_batches": 0.0, "val_check_interval": 1.0, "gradient_clip_val": 1, "num_sanity_val_steps": -1}
    trainer_checks.check(good)
    trainer_checks.check({**dict.fromkeys(good), "devices": "auto", "max_time": "00:01:00:00"})
