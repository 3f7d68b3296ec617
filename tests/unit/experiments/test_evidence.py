"""The instruments of the comparison: momentum contrast, what labels mean; and its grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.graph import read_chain
from experiments.evidence.labels import Shown, alike, consistent, labels_table, people_table
from experiments.instruments.known_people import number_people

GENERATED = {"source_pid": 1, "prompt": "a person", "attributes": "{}", "seed": 0, "generator": "f" * 64}
EVIDENCE = Path(__file__).parents[3] / "experiments" / "evidence"


def write_rows(folder: Path, names: Sequence[str], split: str = "train", parents: Sequence[str] = ()) -> Manifest:
    columns = {"file_name": list(names), "source": "toy", "partition": "train", "pid": 1, "camid": 1, "split": split}
    more = GENERATED if split == "generated" else {}
    Manifest.from_columns(folder, {**columns, **more, "role": "identity"}, parents=parents).write(folder)
    return Manifest.read(folder)


def test_momentum_contrast_learns_without_labels() -> None:
    pytest.importorskip("lightly")
    from diffreid_lightning.reid.person_images import PersonBatch
    from experiments.evidence.self_supervised import MomentumContrast, TwoViews, UnlabeledSampler

    torch.manual_seed(0)
    module = MomentumContrast("test_resnet", (32, 16), memory=16)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    assert {id(p) for p in module.slow.parameters()}.isdisjoint(
        id(p) for group in optimizer.param_groups for p in group["params"]
    )
    images = torch.rand(8, 2, 3, 32, 16)
    batch = PersonBatch(images, *(torch.zeros(8, dtype=torch.int64) for _ in range(4)))
    before = [p.clone() for p in module.slow.parameters()]
    losses = []
    for number in range(3):
        loss = module.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert all(map(math.isfinite, losses))
    moved = [float((new - old).abs().max()) for new, old in zip(module.slow.parameters(), before, strict=True)]
    assert 0 < max(moved) < 0.1, "the slow network follows slowly"

    from PIL import Image

    picture = Image.effect_noise((16, 32), 50).convert("RGB")
    views = TwoViews(pad=2, erasing=0.0)(picture, (32, 16), seed=3)
    assert views.shape == (2, 3, 32, 16) and not torch.equal(views[0], views[1])
    assert torch.equal(views, TwoViews(pad=2, erasing=0.0)(picture, (32, 16), seed=3))
    rows = [draw.row for draw in UnlabeledSampler([0] * 10, batch_size=4)]
    assert len(rows) == len(set(rows)) == 8


def test_a_label_is_consistent_whoever_its_images_show() -> None:
    towards = torch.eye(3)
    # Label 0 shows one person, label 1 another; one image of label 1 shows label 0's.
    features = torch.nn.functional.normalize(
        torch.stack([towards[0] + 0.1 * towards[2], towards[0], towards[0], towards[1], towards[1], towards[0]]), dim=1
    )
    whose = torch.tensor([0, 0, 0, 1, 1, 1])
    assert consistent(features, whose).tolist() == [True, True, True, True, True, False]
    pairs = [float(features[a] @ features[b]) for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))]
    expected = (np.mean(pairs[:3]) + np.mean(pairs[3:])) / 2
    assert alike(features, whose) == pytest.approx(expected, abs=1e-6)
    assert alike(features[[0, 1, 3]], whose[[0, 1, 3]]) == pytest.approx(pairs[0], abs=1e-6), "one image has no pair"


def test_subsets_are_described_by_the_images_they_hold(tmp_path: Path) -> None:
    generated = write_rows(tmp_path, ["a.png", "b.png", "c.png", "d.png"], "generated")
    shown = Shown(torch.eye(4), torch.tensor([True, True, False, False]))
    half = generated.filter(np.array([True, False, True, False]))
    text = labels_table(generated, shown, {"all": generated, "half": half})
    assert "| all | 4 | 50.0 | 100.0 | 0.000 |" in text and "| half | 2 | 50.0 |" in text
    only = generated.filter(np.array([True, True, False, False]))
    assert "| only | 2 | 100.0 |" in labels_table(generated, shown, {"only": only})
    assert "| 40 to 70 % | 1 | 100.0 | 0.000 |" in people_table(generated, shown)


def test_people_are_numbered_as_the_scorer_does(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, ["a.png", "b.png"])
    assert number_people(rows, [("toy", "train", 0), ("toy", "train", 1)]).tolist() == [1, 1]
    with pytest.raises(UserError, match="does not know 1 of the 1 people"):
        number_people(rows, [("toy", "test", 1)])


def test_a_row_without_a_part_reads_what_the_whole_method_made(tmp_path: Path) -> None:
    grid = read_grid(["benchmark/miniperson", str(EVIDENCE / "rows.yaml")], str(tmp_path))
    jobs = expand(grid)
    whole = "made/generated/campus/images-0-3-seed-1"
    for name in ("frozen_base", "without_di", "words_only", "jitter", "sdedit", "unfiltered"):
        assert jobs[f"made/{name}/campus/images-0-3-seed-1"].needs == (whole,)
    assert not jobs["made/without_lpe/campus/images-0-3-seed-1"].needs, "it is personalized in another way"
    assert {job.cell.setting for job in jobs.values() if job.cell and job.cell.initialization == "SDEdit"} == {
        "few-shot 30 %"
    }


def test_the_chains_of_rows_hold_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EVIDENCE.parents[1])
    variant = read_chain(["experiments/evidence/variant.yaml"], {})
    assert {stage.name: stage.reads for stage in variant.stages} == {
        "generate": (), "score_generated": ("generate",), "select": ("score_generated",)
    }  # fmt: skip
    whole, coarse = (
        read_chain(["chains/tour"], {}),
        read_chain(["chains/tour", "experiments/evidence/without_lpe.yaml"], {}),
    )
    changed = [one.name for one, other in zip(whole.stages, coarse.stages, strict=True) if one != other]
    assert changed == ["personalize"]
