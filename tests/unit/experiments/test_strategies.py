"""The measurement of every strategy, on the smallest chain."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from diffreid_lightning.backbones import Backbone, BNNeck
from diffreid_lightning.filtering import scorer_checkpoint
from experiments.generator import captions, guidance, strategies, tiny_sd
from experiments.generator.guidance import STRATEGIES, Setting
from experiments.instruments.attribute_reader import AttributeNet
from experiments.instruments.drawing import Drawing
from experiments.instruments.known_people import caption_people, choose_people
from experiments.instruments.over_people import bootstrap, distances_without, jackknife
from tests.unit.experiments.conftest import Statistics
from tests.unit.experiments.test_generator import squared_discrepancy

KEPT = ("ComposedGuidance", "NoDiversity", "SDEdit")


@pytest.fixture(scope="session")
def chain(everybody, pipeline_folder, tmp_path_factory):
    """Captioned people, a model that was not personalized, and an untrained scorer, where a chain has them."""
    root = tmp_path_factory.mktemp("chain")
    people = caption_people(choose_people(everybody, "train", 2), root / "captioning")
    people.write(root / "caption")
    shutil.copytree(pipeline_folder, root / "personalize" / "fit-001" / "personalized")
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", image_size=(64, 32))
    keys, width = people.identities()[1], backbone.num_features
    heads = (torch.randn(len(keys), width), torch.randn(len(keys), width), torch.ones(len(keys)))
    names = pa.schema(list(scorer_checkpoint._COLUMNS.items())).empty_table()
    real = scorer_checkpoint.RealImages(
        torch.zeros(0, scorer_checkpoint.LENGTH, dtype=torch.uint8), names, [], [0.0] * 3
    )
    calibration = {"temperature": 1.0, "reason": "untrained", "temperature_1_because_of_one_image": []}
    recognizer = scorer_checkpoint.Recognizer(backbone, BNNeck(width), *heads)
    scorer_checkpoint.save_scorer(recognizer, keys, real, root / "score" / "fit-001" / "scorer", calibration, {})
    return root


@pytest.fixture
def few(monkeypatch):
    """Three strategies, two samplers, one and two steps."""
    for name in set(STRATEGIES) - set(KEPT):
        monkeypatch.delitem(STRATEGIES, name)
    monkeypatch.setattr(strategies, "DEFAULT", Setting(end=0.75, steps=2))
    monkeypatch.setattr(strategies, "STEPS", (2, 1))
    monkeypatch.setattr(strategies, "SAMPLERS", ("DDIMScheduler",))
    monkeypatch.setattr(guidance, "kid_features", Statistics)
    monkeypatch.setattr(tiny_sd, "SUBSETS", 2)


def test_every_strategy_sampler_and_number_of_steps_is_measured_once(chain, few, tmp_path, monkeypatch, capsys):
    words = ["--root", str(chain), "--work", str(tmp_path), "--identities", "2", "--images", "4", "--threads", "1"]
    assert strategies.main(words) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "strategies.json").read_text())
    rows = [Setting(**row["setting"]) for row in found["settings"]]
    assert set(rows) == set(strategies.settings()) and len(rows) == 8
    assert [each.steps for each in rows] == [1, 2] * 4
    for row, setting in zip(found["settings"], rows, strict=True):
        assert row["evaluations"] == STRATEGIES[setting.strategy].evaluations(setting.steps, 4.0, (0.0, 0.75))
        assert row["images"] == 8 and row["seconds"] > 0
        assert bool(row["as_asked"]) == (setting.strategy == "ComposedGuidance")
        assert row["kid_interval"][0] <= row["kid"] <= row["kid_interval"][1]
        if setting == strategies.DEFAULT:
            assert row["recognized_difference"] == row["kid_difference"] == [0, 0, 0]
    assert printed.count("| DPMSolverMultistep |") == 6 + 6, "as they are measured, and in the table"
    assert Image.open(tmp_path / "strategies.png").width > 1000

    # A setting that a killed run did not finish is measured again, from the images that it has drawn; others are read.
    results = sorted((tmp_path / "results").iterdir())
    results[0].unlink()
    monkeypatch.setattr(guidance.GenerationModule, "predict_step", lambda *_: pytest.fail("it has been drawn"))
    assert strategies.main(words) == 0
    assert json.loads((tmp_path / "strategies.json").read_text()) == found


def test_a_measurement_is_kept_for_its_reader_and_number_of_threads(tmp_path, monkeypatch):
    drawn = SimpleNamespace(evaluations=1, fastest=1.0, manifest=None)
    monkeypatch.setattr(guidance, "GenerationModule", lambda **_: SimpleNamespace(cache_key="module"))
    monkeypatch.setattr(guidance, "draw_with", lambda *_: drawn)
    monkeypatch.setattr(guidance, "measure", lambda *_: {})
    scorer, people = SimpleNamespace(content_hash="scorer"), SimpleNamespace(content_hash="people")
    for seed, threads in ((0, 1), (1, 1), (1, 2), (1, 2)):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        judges = SimpleNamespace(scorer=scorer, reader=AttributeNet(channels=(4, 4, 4, 4)))
        given = SimpleNamespace(model="model", judges=judges, people=people, drawing=Drawing(), work=tmp_path)
        guidance.measure_setting(given, Setting())
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_without_a_chain_it_is_a_users_mistake(tmp_path, capsys):
    assert strategies.main(["--root", str(tmp_path / "nowhere"), "--work", str(tmp_path), "--threads", "1"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["runs/tour", "=runs/tour", "read="])
def test_a_chain_has_a_name_and_a_root(word, tmp_path, capsys):
    assert captions.main(["--chain", word, "--out", str(tmp_path), "--threads", "1"]) == 2
    assert "NAME=ROOT" in capsys.readouterr().err


def test_intervals_over_people_are_the_known_ones():
    values = np.random.default_rng(0).normal(size=50)
    error = values.std(ddof=1) / np.sqrt(len(values))
    without = (values.sum() - values) / (len(values) - 1)
    assert jackknife(values.mean(), without) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error)
    )
    assert bootstrap(values) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.05)


def test_a_distance_without_a_person_is_that_of_the_others():
    rng = np.random.default_rng(0)
    images, real, people = rng.normal(size=(9, 5)), rng.normal(size=(7, 5)), np.repeat([4, 2, 7], 3)
    expected = [squared_discrepancy(images[people != person], real) for person in (2, 4, 7)]
    assert distances_without(images, people, real) == pytest.approx(expected)
