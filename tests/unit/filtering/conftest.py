"""A tiny chain through the real command line: real people, generated images of them, a scorer, their scores."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import Market1501
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import picture, write_market1501

PEOPLE = (2, 3, 4, 5)
CAMERA = 7
PER_PERSON = 6
UNKNOWN = 99
TINY = ("--data.num_workers=0", "--data.image_size=[64,32]", "--trainer.enable_progress_bar=false")


def write_generated(root: Path, real: Path, people: tuple[int, ...] = (*PEOPLE, UNKNOWN)) -> Path:
    """Generated images of people: the first of each is a real image itself, the second is cut short for person 2."""
    rows = []
    for pid in people:
        for index in range(PER_PERSON):
            name = f"images/market1501/{pid:04d}/{pid:04d}_c{CAMERA}s1_{index:06d}_00.jpg"
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(pid, CAMERA, 3 * index))
            copied = real / "bounding_box_train" / f"{pid:04d}_c1s1_000000_00.jpg"
            if index == 0 and copied.exists():
                file.write_bytes(copied.read_bytes())
            if index == 1 and pid == 2:
                file.write_bytes(file.read_bytes()[:150])
            rows.append((name, pid, json.dumps({"view": ("front", "back")[index % 2]}), 100 * pid + index))
    names, pids, attributes, seeds = (list(column) for column in zip(*rows, strict=True))
    columns = {
        "file_name": names,
        "source": "market1501",
        "partition": "train",
        "pid": pids,
        "camid": CAMERA,
        "split": "generated",
        "role": "identity",
        "source_pid": pids,
        "prompt": "a photo of somebody",
        "attributes": attributes,
        "seed": seeds,
        "generator": "f" * 64,
    }
    Manifest.from_columns(root, columns).write(root)
    return root


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market1501(tmp_path_factory.mktemp("filtering") / "market1501", train_ids=PEOPLE)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory, real: Path) -> Path:
    return write_generated(tmp_path_factory.mktemp("filtering") / "generated", real)


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder to run in, without keys or accounts."""
    folder = tmp_path_factory.mktemp("filtering") / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("HOME", str(folder))
        patch.setattr(logging, "raiseExceptions", False)
        patch.setattr(sys, "argv", ["diffreid_lightning"])
        yield folder


@pytest.fixture(scope="session")
def scorer(offline: Path, real: Path) -> Path:
    """The folder of a scorer, trained by the packaged config for a moment."""
    words = ["fit", "--config", "stages/score", f"--data.train={real}", *TINY, "--trainer.max_epochs=4"]
    words += ["--data.sampler.init_args.identities_per_batch=4", "--data.sampler.init_args.images_per_identity=4"]
    words += [f"--trainer.default_root_dir={offline / 'score'}", "--trainer.accelerator=cpu"]
    assert main(words) == 0
    return offline / "score" / "fit-001" / "scorer"


@pytest.fixture(scope="session")
def score(offline: Path, scorer: Path) -> Callable[..., int]:
    """Score a manifest into a folder by the packaged config."""

    def run(source: Path, folder: Path, *words: str) -> int:
        return main([*score_words(source, scorer, folder, offline), *words])

    return run


def score_words(source: Path, scorer: Path, folder: Path, offline: Path) -> list[str]:
    """The command that scores a manifest into a folder."""
    given = [f"--data.source={source}", f"--model.scorer={scorer}", f"--trainer.callbacks.folder={folder}"]
    given += [f"--trainer.default_root_dir={offline / 'predict'}", "--trainer.accelerator=cpu", "--data.batch_size=7"]
    return ["predict", "--config", "stages/score_generated", *given, *TINY]


@pytest.fixture(scope="session")
def scored(score: Callable[..., int], generated: Path, offline: Path) -> Path:
    """The scored manifest's folder."""
    assert score(generated, offline / "scored") == 0
    return offline / "scored"


@pytest.fixture(scope="session")
def real_manifest(real: Path) -> Manifest:
    return Market1501(real).scan()[0]
