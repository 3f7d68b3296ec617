"""Estimated images and hours against a count by hand."""

from __future__ import annotations

import pytest

from diffreid_lightning.benchmark.estimate import estimate, images_drawn
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.jobs import job_settings
from tests.unit.benchmark.conftest import MakeGrid

SPEED = {"images_per_second": 100, "device": "a GPU", "source": "a log"}


def test_hours_follow_from_epochs_images_and_speed(make_grid: MakeGrid) -> None:
    faster = {"settings": {"few-shot 30 %": {"throughput": {**SPEED, "images_per_second": 200}}}}
    grid = make_grid({"throughput": SPEED, **faster})
    found = {each.setting: each for each in estimate(grid, expand(grid))}
    # 2 epochs (the grid's flag), 1,000 and 2,000 images, 3 rows, 2 seeds
    assert found["supervised"].images == 2 * 3000 * 3 * 2
    assert found["supervised"].hours == pytest.approx(2 * 3000 * 3 * 2 / 100 / 3600)
    assert found["few-shot 30 %"].images == pytest.approx(0.3 * 2 * 3000 * 3 * 2)
    assert found["few-shot 30 %"].hours == pytest.approx(0.3 * 2 * 3000 * 3 * 2 / 200 / 3600)
    assert (found["direct"].trainings, found["direct"].images) == (0, 0), "a test is no training"
    assert all(each.hours is None for each in estimate(make_grid(), expand(grid)))


def test_pre_trainings_count_by_their_batches(make_grid: MakeGrid) -> None:
    pretrain = "fit --config stages/pretrain --data.sampler.init_args.batches 25"
    changes = {"throughput": SPEED, "pretrain": pretrain, "preparations": None}
    rows = {"Diff-Person": None, "on train": {"pretrained_on": "{train}", "settings": ["supervised"]}}
    found = estimate(grid := make_grid({**changes, "initializations": rows}), expand(grid))[-1]
    assert (found.setting, found.trainings, found.images) == ("pre-training", 4, 4 * 2 * 25 * 64)
    assert found.hours == pytest.approx(found.images / 100 / 3600)


def test_an_epoch_of_a_given_number_of_batches(make_grid: MakeGrid) -> None:
    flags = "--trainer.max_epochs 50 --trainer.limit_train_batches 200 --data.sampler.init_args.identities_per_batch 16"
    grid = make_grid({"flags": f"{flags} --data.sampler.init_args.images_per_identity 16"})
    assert images_drawn(grid, expand(grid)["scratch/usl/market/seed-0"]) == 50 * 200 * 256


def test_a_sampler_that_says_how_many_batches_it_has(make_grid: MakeGrid) -> None:
    run = "fit --config recipes/usl --data.target {target} --data.sampler.init_args.images_per_cluster 8"
    grid = make_grid({"settings": {"USL": {"run": run}}})
    assert images_drawn(grid, expand(grid)["scratch/usl/market/seed-0"]) == 2 * 30 * 16 * 8


@pytest.mark.parametrize(
    ("flags", "drawn"),
    [
        ("--trainer.max_epochs -1 --trainer.max_steps 500", 500 * 64),
        ("--trainer.max_epochs 2 --trainer.max_steps 10", 10 * 64),
        ("--trainer.max_epochs 2 --trainer.max_steps 500", 2 * 1000),
        ("--trainer.max_epochs 2 --trainer.max_steps -1", 2 * 1000),
        ("--trainer.max_epochs -1", 0),
    ],
)
def test_a_training_ends_at_its_first_limit(make_grid: MakeGrid, flags: str, drawn: int) -> None:
    grid = make_grid({"flags": flags})
    assert images_drawn(grid, expand(grid)["scratch/supervised/market/seed-0"]) == drawn


def test_all_that_a_cell_trains_on_counts_and_what_is_unknown_is_said(make_grid: MakeGrid) -> None:
    grid = make_grid({"throughput": SPEED})
    assert images_drawn(grid, expand(grid)["scratch/uda/market-to-duke/seed-0"]) == 2 * (1000 + 2000)
    grid = make_grid({"throughput": SPEED, "datasets": {"duke": {"images": None}}})
    found = {each.setting: each for each in estimate(grid, expand(grid))}
    assert (found["supervised"].trainings, found["supervised"].unknown) == (12, 6)
    assert found["supervised"].images == 2 * 1000 * 3 * 2
    assert found["UDA"].unknown == found["UDA"].trainings, "each trains on both"
    for subset in ({"identities": 1}, {"identities": 200}, {"list_file": __file__}):
        grid = make_grid({"settings": {"few-shot 30 %": {"subset": {"images": None, **subset}}}})
        assert images_drawn(grid, expand(grid)["scratch/few-shot-30/market/seed-0"]) == 0


def test_flags_lie_over_configs_in_every_form() -> None:
    words = ["fit", "--config", "stages/transfer", "--model.warmup_epochs", "7", "--data.init_args.val_share=0.25"]
    found = job_settings(words)
    assert found["trainer.max_epochs"] == 40
    assert found["model.init_args.warmup_epochs"] == 7
    assert found["data.init_args.val_share"] == 0.25
    assert found["data.init_args.sampler.init_args.images_per_identity"] == 4
    short = ["--data.sampler.images_per_identity", "2", "--data.sampler.batches=9"]
    found = job_settings(["fit", "--config", "stages/transfer", *short])
    assert found["data.init_args.sampler.init_args.images_per_identity"] == 2
    assert found["data.init_args.sampler.init_args.batches"] == 9
