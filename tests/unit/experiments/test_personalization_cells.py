"""The scripts about stage 1: their cells, what they measure, and one table of tiny cells from end to end."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.diversity import GuidanceJitter
from diffreid_lightning.generation.vocabulary import Vocabulary
from experiments.generator.tiny_sd import encode_prompts
from experiments.instruments import drift
from experiments.instruments.attribute_reader import AttributeNet, read_attributes
from experiments.instruments.drawing import Drawing, fastest_of, rate_of, steps_for
from experiments.instruments.judge import Judge
from experiments.instruments.known_people import choose_people
from experiments.instruments.measures import agreement_with, asked_of, copies
from experiments.instruments.recognition import nearest_person
from experiments.instruments.scene_reader import SCENE, encode_scenes, train_scene_reader
from experiments.instruments.unseen_prompts import draw_prompts
from experiments.personalization import injection, lpe
from experiments.personalization.bench import kept
from experiments.personalization.cells import CELLS, DREAMBOOTH, FULL, Cell, Settings, is_key
from tests.unit.experiments.conftest import Statistics


def test_the_factorial_has_every_cell_once_and_few_key_rows():
    assert len(set(CELLS)) == 18
    assert {FULL, DREAMBOOTH} <= {cell for cell in CELLS if is_key(cell)}
    assert sum(map(is_key, CELLS)) == 7


def test_a_first_seed_is_finished_before_a_second():
    planned = lpe.planned_cells(key_seeds=3, other_seeds=1)
    assert len(planned) == 7 * 3 + 11
    assert [seed for _, seed in planned] == sorted(seed for _, seed in planned)
    assert all(is_key(cell) for cell, _ in lpe.planned_cells(2, 0))


def test_every_cell_evaluates_the_denoiser_equally_often():
    settings = Settings(images_per_step=24, prior_share=1 / 3)
    assert {sum(settings.split(cell.prior)) for cell in CELLS} == {24}
    assert settings.split("none") == (24, 0)
    assert settings.split("fine") == settings.split("coarse") == (16, 8)


def test_every_strategy_has_the_same_evaluations():
    drawing = Drawing(evaluations=32)
    steps = {name: steps_for(row, drawing) for name, row in injection.strategies(3.0, 1.0, 0.3, 0.7).items()}
    assert steps == {"NoDiversity": 16, "WordsOnly": 16, "ComposedGuidance": 13, "GuidanceJitter": 16, "SDEdit": 24}
    with pytest.raises(UserError, match="1 evaluations"):
        steps_for(GuidanceJitter(), Drawing(evaluations=1))


def test_everything_but_poses_can_be_read_of_the_packaged_vocabulary():
    vocabulary = Vocabulary.read("rendered")
    for number in range(max(vocabulary.sizes)):
        asked = asked_of(vocabulary.name([number % size for size in vocabulary.sizes]))
        assert len(asked) == 4
        assert min(asked) >= 0
    assert asked_of({}) == [-1] * 4
    assert asked_of({"view": "seen from behind"}) == [1, -1, -1, -1]
    views = Vocabulary.read(lpe.VIEWS)
    assert views.phrases["view"] == vocabulary.phrases["view"]


def test_agreement_is_over_what_was_asked():
    asked = np.array([[1, -1], [0, 2], [3, 0]])
    assert agreement_with(asked, np.array([[1, 5], [0, 1], [3, 0]])) == pytest.approx(4 / 5)
    assert agreement_with(np.full((2, 2), -1), np.zeros((2, 2), int)) is None


def test_scenes_are_taken_apart():
    found = encode_scenes(["on grass in front of a building"], ["at night"]).tolist()
    assert found == [[SCENE["ground"].index("grass"), SCENE["wall"].index("a building"), 0]]
    with pytest.raises(UserError, match="not a place"):
        encode_scenes(["grass"], ["at night"])


def test_the_reader_of_scenes_learns_and_is_kept(world, tmp_path, capsys):
    first = train_scene_reader(world, tmp_path, epochs=1)
    assert {name: share.count for name, share in first.val.items()} == dict.fromkeys(SCENE, 24)
    capsys.readouterr()
    assert train_scene_reader(world, tmp_path, epochs=1).val == first.val
    assert "epoch" not in capsys.readouterr().out


def test_copies_are_nearly_the_same_picture_or_its_mirror_image():
    noise = torch.Generator().manual_seed(0)
    real = torch.randint(0, 255, (3, 3, 128, 64), dtype=torch.uint8, generator=noise)
    real = real.unfold(2, 16, 16)[..., 0].repeat_interleave(16, 2).unfold(3, 16, 16)[..., 0].repeat_interleave(16, 3)
    others = torch.randint(0, 255, real.shape, dtype=torch.uint8, generator=noise)
    assert copies(torch.cat([real[:1].flip(-1), real[1:2], 255 - real[2:], others[:1]]), real) == 0.5


def test_seconds_of_a_killed_run_count_and_half_a_line_does_not():
    lines = '{"seconds": 2.0, "images": 8}\n{"seconds": 2.0, "images": 4}\n{"seco'
    assert rate_of(lines) == 3.0
    assert fastest_of(lines) == 0.25


def test_val_people_take_the_part_of_training_people(everybody):
    chosen = choose_people(everybody, "val", 3)
    assert set(chosen.numpy("split")) == {"train"}
    assert chosen.parents == (everybody.content_hash,)
    assert set(chosen.identities()[1]) < set(everybody.filter(everybody.numpy("split") == "val").identities()[1])
    with pytest.raises(UserError, match="not 41 people"):
        choose_people(everybody, "val", 41)


def test_a_stranger_to_the_judge_is_told_by_real_images(everybody):
    val = choose_people(everybody, "val", 3)
    train = choose_people(everybody, "train", 3)
    torch.manual_seed(0)
    keys = tuple(train.identities()[1])
    judge = Judge("test_resnet", len(keys)).eval()
    assert nearest_person(judge, keys, keys, everybody).people == keys
    found = nearest_person(judge, keys, val.identities()[1], val)
    assert set(found.people) == set(val.identities()[1])
    with pytest.raises(UserError, match="cannot tell"):
        nearest_person(judge, keys, val.identities()[1], train)


def test_drift_is_measured_from_the_base_models_own_images(world, tmp_path, monkeypatch):
    source = torch.Generator().manual_seed(0)
    base = torch.randint(0, 256, (8, 3, 128, 64), dtype=torch.uint8, generator=source)
    cyan = base.clone()
    cyan[:, 0] = 0
    drawn = {Path("base"): base, Path("same"): base.clone(), Path("cyan"): cyan}
    monkeypatch.setattr(drift, "draw_nobody", lambda model, *_: drawn[model])
    network = AttributeNet().eval()
    found = {
        name: drift.measure_drift(
            Path(name), Path("base"), world, 8, Drawing(), network, Statistics(), tmp_path
        )
        for name in ("same", "cyan")
    }  # fmt: skip
    assert set(found["same"]) == set(drift.MEASURES)
    assert abs(found["same"]["moved"]) < 1e-6
    assert found["cyan"]["moved"] > 0.1  # a third of the means and deviations is gone
    assert found["cyan"]["kid_base"] > found["same"]["kid_base"]
    read = read_attributes(network, cyan)
    asked = encode_prompts(draw_prompts(world, 8))
    right = [bool((one[:3] == other[:3]).all()) for one, other in zip(read, asked, strict=True)]  # the sex comes last
    assert found["cyan"]["agreement"] == sum(right) / 8


def test_the_factorial_is_measured_kept_and_taken_up(words, tmp_path, monkeypatch, capsys):
    cells = (FULL, Cell(caption=False, tokens="rare", prior="none"))
    monkeypatch.setattr(lpe, "CELLS", cells)
    words = [*words, "--key-seeds", "2", "--other-seeds", "1"]
    assert lpe.main(words) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "work" / "lpe-train.json").read_text())
    for cell in cells:
        assert f"| {cell.label} |" in printed
        row = found["cells"][cell.label]["0"]
        assert row["images"] == 8
        assert row["steps"] == 2
        assert row["images_per_second"] > 0
        assert {"recognized", "copies", "kid", "agreement", *(f"drift_{name}" for name in drift.MEASURES)} <= set(row)
    assert abs(found["references"]["the base model"]["0"]["drift_moved"]) < 1e-6
    assert "| real images |" in printed
    assert "| the base model |" in printed
    # A cell that is lost is measured again from what was trained and drawn; the others are only read.
    (lost,) = (tmp_path / "work" / "results").glob("caption-free-fine-1-*.json")
    content = lost.read_text()
    lost.unlink()
    assert lpe.main(words) == 0
    assert "caption free fine, seed 1" in capsys.readouterr().out
    assert lost.read_text() == content
    assert lpe.main(words) == 0
    assert "seed" not in capsys.readouterr().out.partition("###")[0]
    # Nor is a cell that another machine has measured, under whatever its instruments came to.
    elsewhere = (tmp_path / "work" / "lpe-train.json").rename(tmp_path / "elsewhere.json")
    for file in (tmp_path / "work" / "results").glob("caption-*.json"):
        file.unlink()
    assert lpe.main([*words, "--earlier", str(elsewhere)]) == 0
    assert "seed" not in capsys.readouterr().out.partition("###")[0]
    assert json.loads((tmp_path / "work" / "lpe-train.json").read_text())["cells"] == found["cells"]
    assert lpe.main([*words, "--earlier", str(tmp_path / "nowhere.json")]) == 2
    # Two processes share the three cells.
    shares = []
    for part in ("1", "2"):
        assert lpe.main([*words, "--parts", "2", "--part", part]) == 0
        share = json.loads((tmp_path / "work" / f"lpe-train-{part}-of-2.json").read_text())["cells"]
        shares += [(label, seed, row["done"]) for label, seeds in share.items() for seed, row in seeds.items()]
    everything = found["cells"].items()
    whole = [(label, seed, row["done"]) for label, seeds in everything for seed, row in seeds.items()]
    assert sorted(shares) == sorted(whole)
    assert lpe.main([*words, "--parts", "2", "--part", "3"]) == 2


def test_who_comes_to_a_result_at_the_same_time_waits_for_it(tmp_path):
    computed = []

    def compute():
        computed.append(1)
        time.sleep(0.2)
        return {"value": len(computed)}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: kept(tmp_path / "results" / "one.json", compute), range(2)))
    assert found == [{"value": 1}, {"value": 1}]


def test_strategies_are_measured_at_equal_cost(words, tmp_path, capsys):
    assert injection.main([*words, "--seeds", "1", "--evaluations", "6"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "work" / "injection-train.json").read_text())["strategies"]
    assert set(found) == {"NoDiversity", "WordsOnly", "ComposedGuidance", "GuidanceJitter", "SDEdit"}
    for name, seeds in found.items():
        assert f"| {name} | 1 |" in printed
        assert seeds["0"]["evaluations"] <= 6
    assert found["NoDiversity"]["0"]["agreement"] is None
    assert found["WordsOnly"]["0"]["agreement"] is not None
    assert len(list((tmp_path / "work" / "personalized").iterdir())) == 1
    # Of five processes one sees to one strategy, which is all that it writes down.
    assert injection.main([*words, "--seeds", "1", "--evaluations", "6", "--parts", "5", "--part", "2"]) == 0
    assert "Paired" not in capsys.readouterr().out
    assert json.loads((tmp_path / "work" / "injection-train-2-of-5.json").read_text())["strategies"] == {
        "WordsOnly": found["WordsOnly"]
    }


@pytest.mark.parametrize("missing", ["--base", "--world", "--judge"])
def test_what_is_missing_is_a_users_mistake(missing, words, tmp_path, capsys):
    assert lpe.main([*words, missing, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
