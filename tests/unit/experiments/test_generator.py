from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics.image.kid
from PIL import Image

from experiments.generator import tiny_sd
from experiments.instruments.attribute_labels import VALUES
from experiments.instruments.attribute_reader import AttributeNet, read_attributes
from experiments.instruments.pictures import read_pictures, reconstruct
from experiments.instruments.unseen_prompts import draw_prompts
from tests.unit.experiments.conftest import Statistics

_SHORT = ("--epochs", "1", "--figure-epochs", "1", "--threads", "1")


def pictures(count, brightest, seed):
    return torch.randint(
        0, brightest, (count, 3, 128, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def squared_discrepancy(left, right):
    """The unbiased estimate by its definition (Binkowski et al., arXiv 1801.01401, equation 4)."""

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(rows):
        return np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])

    return within(left) + within(right) - 2 * np.mean([kernel(a, b) for a in left for b in right])


def test_kid_is_the_unbiased_discrepancy_and_needs_no_inception_weights(monkeypatch):
    monkeypatch.setattr(torchmetrics.image.kid, "_TORCH_FIDELITY_AVAILABLE", False)
    reference = pictures(20, 200, 0)
    others = {"same": pictures(20, 200, 1), "darker": pictures(20, 90, 2)}
    found = tiny_sd.kernel_distances(Statistics(), reference, others)
    features = Statistics()
    rows = features(reference.double() / 255).numpy()
    for name, images in others.items():
        expected = squared_discrepancy(rows, features(images.double() / 255).numpy())
        assert found[name]["mean"] == pytest.approx(expected, abs=1e-4)
        assert found[name]["subset_size"] == 20
    assert found["darker"]["mean"] > 0.01 > abs(found["same"]["mean"])


def test_a_sheet_shows_every_pair_before_any_twice(world):
    prompts = draw_prompts(world, 40)
    chosen = tiny_sd.sheet_prompts(prompts, 4)
    assert len({(prompt.pair, prompt.view) for prompt in chosen}) == 4
    assert len({prompt.pair for prompt in chosen[:2]}) == 2
    assert [prompt.view for prompt in chosen] == ["front", "back", "left", "right"]


def test_reconstructions_are_pictures(pipeline_folder):
    rebuilt = reconstruct(pipeline_folder, pictures(3, 255, 0))
    assert rebuilt.shape == (3, 3, 128, 64)
    assert rebuilt.dtype == torch.uint8


def test_the_sex_comes_from_the_reader_of_figures(world):
    pictures = read_pictures(world)[:6]
    classifier = AttributeNet().eval()
    sexes = torch.tensor([0, 1, 1, 0, 1, 0])
    read = tiny_sd.everything_read(classifier, SimpleNamespace(sex=lambda given: sexes[: len(given)]), pictures)
    others = [place for place, name in enumerate(VALUES) if name != "sex"]
    assert torch.equal(read[:, list(VALUES).index("sex")], sexes)
    assert torch.equal(read[:, others], read_attributes(classifier, pictures)[:, others])


def test_the_benchmark_writes_tables_results_and_sheet(world, pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tiny_sd, "kid_features", Statistics)
    words = ["--world", str(world.root), "--pipeline", str(pipeline_folder), "--work", str(tmp_path / "work")]
    words += ["--sheet", str(tmp_path / "sheet.png"), "--images", "16", *_SHORT]
    words += ["--steps", "2"]
    assert tiny_sd.main(words) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    for name in ("upper_colour", "lower_colour", "view", "sex", "all four"):
        assert f"| {name} |" in printed
        assert results["agreement"][name]["count"] == 16
    assert set(results["agreement_by_pair"]) == {"red and navy", "orange and black"}
    assert results["kid"]["images"]["images of the balanced prompts"] == 16
    held_out = int((world.numpy("split") == "val").sum())
    assert results["kid"]["images"]["reference"] + results["kid"]["images"]["images of its captions"] == held_out
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 2 * 2 * 6 * 64
    assert sheet.height > 2 * 6 * 128
    assert tiny_sd.main(words) == 0  # everything is kept
    assert "epoch 1 of" not in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["--world", "--pipeline"])
def test_a_missing_folder_is_a_users_mistake(missing, world, pipeline_folder, tmp_path, capsys):
    given = {"--world": str(world.root), "--pipeline": str(pipeline_folder), missing: str(tmp_path / "nowhere")}
    words = [word for pair in given.items() for word in pair]
    assert tiny_sd.main([*words, "--work", str(tmp_path / "work"), "--images", "4", *_SHORT]) == 2
    assert "nowhere" in capsys.readouterr().err
