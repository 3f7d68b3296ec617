from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from diffreid_lightning.datasets import Market1501
from diffreid_lightning.errors import UserError
from experiments.instruments import judge as benchmark
from experiments.instruments.judge import Portraits, hold_out, identification, load_judge, people_of, train_judge
from experiments.instruments.reader_training import Recipe
from tests.fixtures.dataset_layouts import write_market1501
from tools.miniperson import corpus as plan

RECIPE = Recipe(epochs=1, batch_size=8)


@pytest.fixture(scope="module", autouse=True)
def small_judge():
    """The smallest network that timm has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "ARCHITECTURE", "test_resnet")
        yield


@pytest.fixture(scope="module")
def retaken(tmp_path_factory):
    folder = write_market1501(tmp_path_factory.mktemp("judge") / "market", train_ids=(2, 7, 10), images_per_camera=2)
    manifest = Market1501(folder).manifest()
    return [manifest.filter(manifest.numpy("split") == "train")]


@pytest.fixture(scope="module")
def trained(retaken, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    people = people_of(retaken)
    return work, people, *train_judge(retaken, people, work, RECIPE)


def test_the_same_number_of_pictures_of_everyone_is_held_out():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(9), 7))
    mask = hold_out(labels, 3, seed=1)
    assert np.bincount(labels[mask]).tolist() == [3] * 9
    assert (mask != hold_out(labels, 3, seed=2)).any()


def test_somebody_with_too_few_pictures_is_refused():
    with pytest.raises(UserError, match="4 pictures"):
        hold_out(np.zeros(4, int), 4, seed=0)


def test_the_judge_comes_back_as_it_was_trained(trained):
    work, people, judge, held_out, _ = trained
    loaded, keys = load_judge(work)
    images = torch.rand(5, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    scores = loaded(images)
    assert keys == people
    assert scores.shape == (5, len(people))
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(5))
    assert torch.equal(scores, judge.eval()(images).detach())
    assert held_out.count == 4 * len(people)


def test_a_trained_judge_is_not_trained_again(trained, retaken, capsys):
    work, people, _, held_out, seconds = trained
    _, again, kept = train_judge(retaken, people, work, RECIPE)
    assert "epoch" not in capsys.readouterr().out
    assert again == held_out
    assert kept == pytest.approx(seconds, abs=0.1)


def test_measuring_counts_every_image_by_domain_and_through_the_autoencoder(trained, retaken, pipeline_folder):
    _, people, judge, *_ = trained
    first = retaken[0].numpy("pid") == people[0][2]
    images = {"one": retaken[0].filter(first), "others": retaken[0].filter(~first)}
    found = benchmark.measure(judge, people, images, pipeline_folder)
    assert {name: share.count for name, share in found.items()} == {
        "own": len(first), "own_one": first.sum(), "own_others": (~first).sum(), "rebuilt": len(first),
    }  # fmt: skip
    assert found["own"].right == found["own_one"].right + found["own_others"].right


def test_identification_compares_the_first_name_with_the_label():
    brightest = torch.nn.Flatten()  # one pixel per person: the brightest is named
    pictures = torch.zeros(4, 1, 1, 3, dtype=torch.uint8)
    pictures[range(4), 0, 0, [0, 1, 2, 2]] = 255
    assert identification(brightest, Portraits(pictures, np.array([0, 1, 2, 0]))).right == 3


def test_no_judge_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no judge"):
        load_judge(tmp_path)


def test_retaken_people_are_minipersons_training_people():
    """Whom the judge knows is whom it is asked about; no rendering needed."""
    own = benchmark.own_images()
    for domain, manifest in own.items():
        again = plan.retaken(plan.domain(domain), 2)
        assert {person.pictures[0].pid for person in again} == set(manifest.numpy("pid").tolist())
        names = {picture.file_name for person in again for picture in person.pictures}
        assert not names & set(manifest.table["file_name"].to_pylist())
    assert len(people_of(list(own.values()))) == 320


def test_results_say_what_the_autoencoder_keeps(trained, retaken, pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "retake", lambda corpus, images, out, workers: retaken[0])
    monkeypatch.setattr(benchmark, "DOMAINS", ("campus",))
    monkeypatch.setattr(benchmark, "own_images", lambda: {"campus": retaken[0]})
    words = ["--work", str(tmp_path), "--pipeline", str(pipeline_folder), "--epochs", "1", "--threads", "1"]
    assert benchmark.main(words) == 0
    assert "(c)" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["own"]["count"] == results["rebuilt"]["count"] == len(retaken[0])
