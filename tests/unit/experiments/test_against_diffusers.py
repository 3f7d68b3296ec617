from __future__ import annotations

import json
import statistics

import pytest
import torch

from experiments.personalization import against_diffusers
from experiments.personalization.against_diffusers import equal_recognition, mean_curve, people_apart
from experiments.personalization.dreambooth import Alone, instance_prompt, train_alone

CURVE = {50: (1.0, 0.2), 100: (2.0, 0.6), 200: (4.0, 0.5), 400: (8.0, 0.7)}


@pytest.mark.parametrize(
    ("wanted", "steps", "seconds"), [(0.1, 25, 0.5), (0.2, 50, 1.0), (0.5, 87.5, 1.75), (0.65, 350, 7.0)]
)
def test_sides_are_compared_where_they_recognize_as_many(wanted, steps, seconds):
    met = equal_recognition(CURVE, wanted)
    assert (met.steps, met.seconds, met.share) == pytest.approx((steps, seconds, wanted))
    assert met.reached


def test_what_is_never_reached_is_said_to_be():
    assert equal_recognition(CURVE, 0.8) == (400, 8.0, 0.7, False)
    assert equal_recognition({50: (1.0, 0.3), 100: (2.0, 0.3)}, 0.8) == (100, 2.0, 0.3, False)


def test_curves_are_averaged_point_by_point():
    persons = [
        [{"steps": 1, "seconds": 1.0, "recognized": 0.0}, {"steps": 3, "seconds": 3.0, "recognized": 1.0}],
        [{"steps": 1, "seconds": 2.0, "recognized": 0.5}, {"steps": 3, "seconds": 5.0, "recognized": 0.5}],
    ]
    assert mean_curve(persons) == {1: (1.5, 0.25), 3: (4.0, 0.75)}


def test_chosen_people_are_spread_over_all():
    assert people_apart(100, 4) == [0, 25, 50, 75]
    assert people_apart(3, 8) == [0, 1, 2]


def test_one_person_alone_changes_the_lora_and_nothing_else(pipeline_folder):
    pictures = torch.randint(0, 255, (3, 3, 128, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    taken = []
    for steps, seconds, pipeline, prompt in train_alone(pipeline_folder, pictures, Alone((1, 3), rank=2), seed=0):
        grown = [value for name, value in pipeline.unet.named_parameters() if "lora_B" in name]
        taken.append((steps, seconds, sum(float(value.detach().abs().sum()) for value in grown)))
        assert prompt == instance_prompt(pipeline.tokenizer)
        assert not any(value.requires_grad for name, value in pipeline.unet.named_parameters() if "lora" not in name)
    assert [steps for steps, *_ in taken] == [1, 3]
    assert taken[1][1] > taken[0][1] > 0
    assert taken[1][2] > taken[0][2] > 0


def test_both_parts_are_measured_and_taken_up(words, tmp_path, capsys):
    words = [*words, "--some", "1", "--alone-steps", "2", "1", "--alone-rank", "2", "--rounds", "2"]
    words += ["--alone-rates", "1e-4", "1e-3"]
    assert against_diffusers.main(words) == 0
    printed = capsys.readouterr().out
    assert "| 2 people at once |" in printed
    assert "| a loop over StableDiffusionPipeline, " in printed
    found = json.loads((tmp_path / "work" / "against_diffusers-train.json").read_text())
    training = found["training"]
    assert [alone["rate"] for alone in training["alone"]] == [1e-4, 1e-3]
    for alone in training["alone"]:
        assert list(alone["curve"]) == ["1", "2"]
        assert alone["ratio"] == pytest.approx(alone["seconds"] / training["seconds"])
        assert f"| one at a time, rate {alone['rate']:g}, " in printed
    rates = found["generation"]
    assert list(rates) == ["float32", "bfloat16"]
    assert all(len(way) == 2 and min(way) > 0 for both in rates.values() for way in both.values())
    stock, ours = (statistics.median(way) for way in (rates["float32"]["stock"], rates["bfloat16"]["ours"]))
    row = next(line for line in printed.splitlines() if line.startswith("| predict, "))
    assert f"{ours:.2f} ({ours / stock:.2f})" in row  # against what users have without choosing
    assert against_diffusers.main(words) == 0
    again = json.loads((tmp_path / "work" / "against_diffusers-train.json").read_text())
    assert again["training"] == found["training"]
    assert again["made_by"]["settings"]["precision"] == "32-true"
