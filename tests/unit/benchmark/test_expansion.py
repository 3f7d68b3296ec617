"""Cells of a grid: their commands, keys, order, and the labels that went into what they start from."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.job_records import forget
from diffreid_lightning.benchmark.jobs import Job, choose, on_this_machine
from diffreid_lightning.errors import UserError
from diffreid_lightning.pipeline.fingerprints import forget_hashes
from tests.unit.benchmark.conftest import MakeGrid


def words_of(job: Job, root: str = "ROOT") -> dict[str, str]:
    """The flags of a command by name, on a machine."""
    words = on_this_machine(job.words, Path(root), {"market": "/m", "duke": "/d"})
    flags: dict[str, str] = {}
    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            flags[name[2:]] = value if equals else following
    return flags


def test_every_cell_is_there_once_after_what_it_needs(make_grid: MakeGrid) -> None:
    jobs = expand(make_grid())
    cells = [job.cell for job in jobs.values() if job.cell is not None]
    assert len(cells) == len(set(cells)) == 3 * 2 * (3 * 2 + 2 * 2)  # rows, seeds, settings and datasets or pairs
    done: set[str] = set()
    for job in jobs.values():
        assert done.issuperset(job.needs), job.name
        done.add(job.name)
    seeds = [job.cell.seed for job in jobs.values() if job.cell is not None]
    assert seeds == sorted(seeds), "a table of few seeds is a table already"
    assert len({job.folder for job in jobs.values()}) == len(jobs)


def test_commands_say_what_a_cell_is(make_grid: MakeGrid) -> None:
    jobs = expand(make_grid())
    scratch = words_of(jobs["scratch/supervised/duke/seed-1"])
    assert scratch["data.train"] == scratch["data.test"] == "/d"
    assert (scratch["model.init_from"], scratch["seed_everything"], scratch["data.num_workers"]) == ("null", "1", "3")
    few = jobs["diff-person/few-shot-30/market/seed-0"]
    subset = {"class_path": "Subset", "init_args": {"dataset": "/m", "images": 0.3}}
    assert json.loads(words_of(few)["data.train"]) == subset
    assert words_of(few)["model.drop_path_rate"] == "0.1"
    pretrained = jobs["made/pretrained/market/images-0-3/seed-0"]
    generated = jobs["made/generated/market/images-0-3"]
    assert few.needs == (pretrained.name,) and pretrained.needs == (generated.name,) and not generated.needs
    assert words_of(few)["model.init_from"] == f"ROOT/{pretrained.folder}/fit-001/backbone"
    assert words_of(pretrained)["data.train"] == f"ROOT/{generated.folder}/select"
    assert words_of(generated) == {
        **words_of(generated), "root": f"ROOT/{generated.folder}", "data": "/m", "images": "0.3",
    }  # fmt: skip
    assert words_of(jobs["made/generated/market"])["images"] == "null"
    before = jobs["scratch/supervised/market/seed-0"]
    for name in ("uda", "direct"):
        assert jobs[f"scratch/{name}/market-to-duke/seed-0"].needs == (before.name,)
    uda = words_of(jobs["scratch/uda/market-to-duke/seed-0"])
    assert uda["model.init_from"] == f"ROOT/{before.folder}/fit-001/backbone"
    assert (uda["data.train"], uda["data.test"]) == ("[/m,/d]", "/d")
    direct = words_of(jobs["scratch/direct/market-to-duke/seed-0"])
    assert set(direct) == {"ckpt_path", "data.test", "trainer.default_root_dir"}
    assert direct["ckpt_path"] == f"ROOT/{before.folder}/fit-001"


def test_all_seeds_share_what_does_not_depend_on_them(make_grid: MakeGrid) -> None:
    names = [name for name in expand(make_grid()) if name.startswith("made/generated/")]
    assert sorted(names) == sorted(
        f"made/generated/{data}{subset}" for data in ("market", "duke") for subset in ("", "/images-0-3")
    )


def test_a_key_does_not_depend_on_where_things_lie(make_grid: MakeGrid) -> None:
    one = expand(make_grid())
    other = expand(make_grid({"datasets": {"market": {"path": "/mnt/elsewhere"}}}))
    assert {name: job.key for name, job in one.items()} == {name: job.key for name, job in other.items()}


def changed(make_grid: MakeGrid, changes: dict[str, Any]) -> set[str]:
    """The jobs that a change of the grid makes other ones."""
    before, after = expand(make_grid()), expand(make_grid(changes))
    return {name for name in before if name in after and before[name].key != after[name].key}


def test_a_change_reaches_what_depends_on_it_and_nothing_else(make_grid: MakeGrid) -> None:
    names = set(expand(make_grid()))
    run = "pipeline --config chains/tour --root {out} --data {labeled} --images {images} --identities 9"
    generated = changed(make_grid, {"preparations": {"generated": {"run": run}}})
    assert generated == {name for name in names if name.startswith(("made/", "diff-person/"))}
    run = "test --ckpt_path {needed} --data.image_size [64,32]"
    assert changed(make_grid, {"settings": {"direct": {"run": run}}}) == {name for name in names if "/direct/" in name}
    run = "fit --config stages/transfer --model.warmup_epochs 1"
    supervised = changed(make_grid, {"settings": {"supervised": {"run": run}}})
    assert supervised == {name for name in names if name.split("/")[1] in ("supervised", "uda", "direct")}
    assert not changed(make_grid, {"initializations": {"scratch": {"note": "words"}}, "seeds": [1, 0, 2]})


def test_a_config_counts_by_its_content(make_grid: MakeGrid, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    keys = []
    for epochs in (3, 4, 3):
        recipe.write_text(f"trainer: {{max_epochs: {epochs}}}\n")
        forget()
        grid = make_grid({"settings": {"supervised": {"run": f"fit --config {recipe}"}}})
        keys.append(expand(grid)["scratch/supervised/duke/seed-0"].key)
    assert keys[0] == keys[2] != keys[1]


def test_the_vocabulary_of_a_chain_counts_by_its_content(make_grid: MakeGrid, tmp_path: Path) -> None:
    vocabulary, generate, chain = (tmp_path / name for name in ("words.yaml", "generate.yaml", "chain.yaml"))
    generate.write_text(f"data: {{init_args: {{vocabulary: {vocabulary}}}}}\n")
    run = f"predict --config stages/generate --config {generate}"
    chain.write_text(f"stages: {{generate: {{run: '{run}'}}}}\n")
    words = f"pipeline --config chains/tour --config {chain} --root {{out}} --data {{labeled}} --images {{images}}"
    keys = []
    for text in ("one: [a]\n", "one: [b]\n"):
        vocabulary.write_text(text)
        forget()
        forget_hashes()
        keys.append(expand(make_grid({"preparations": {"generated": {"run": words}}}))["made/generated/market"].key)
    assert keys[0] != keys[1]


def test_a_list_of_images_counts_by_its_content(make_grid: MakeGrid, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    changes = {"settings": {"few-shot 30 %": {"subset": {"images": None, "list_file": str(names)}}}}
    with pytest.raises(UserError, match=r"list of images .* cannot be read"):
        expand(make_grid(changes))
    keys = []
    for text in ("a.jpg\n", "b.jpg\n"):
        names.write_text(text)
        keys.append(expand(make_grid(changes))["scratch/few-shot-30/market/seed-0"].key)
    assert keys[0] != keys[1]


def test_lists_that_make_one_name_are_refused(make_grid: MakeGrid, tmp_path: Path) -> None:
    settings = {}
    for label, name in (("one", "a-b.txt"), ("two", "a_b.txt")):
        (tmp_path / name).write_text("a.jpg\n")
        settings[label] = {"run": "fit --config stages/transfer", "subset": {"list_file": str(tmp_path / name)}}
    run = "pipeline --config chains/tour --root {out} --data {labeled} --list_file {list_file}"
    changes = {"settings": settings, "preparations": {"generated": {"run": run}}}
    with pytest.raises(UserError, match="Two subsets would be made in one folder"):
        expand(make_grid(changes))


def test_rows_that_saw_the_targets_labels_are_marked(make_grid: MakeGrid) -> None:
    marked = {job.name for job in expand(make_grid()).values() if job.cell is not None and job.cell.sees_target}
    expected = {f"{row}/usl/duke" for row in ("diff-person", "ready-weights")} | {"diff-person/usl/market"}
    expected |= {f"ready-weights/{setting}/market-to-duke" for setting in ("uda", "direct")}
    expected.add("ready-weights/few-shot-30/duke")  # made of all images, of which the setting has 30 %
    assert marked == {f"{name}/seed-{seed}" for name in expected for seed in (0, 1)}


def test_a_subset_may_be_drawn_with_the_seed_of_each_cell(make_grid: MakeGrid) -> None:
    run = "pipeline --config chains/tour --root {out} --data {labeled} --images {images} --subset_seed {subset_seed}"
    changes = {
        "seeds": [0, 3],
        "settings": {"few-shot 30 %": {"subset": {"seed": "{seed}"}}},
        "preparations": {"generated": {"run": run}},
    }
    jobs = expand(make_grid(changes))
    for seed in (0, 3):
        train = json.loads(words_of(jobs[f"scratch/few-shot-30/market/seed-{seed}"])["data.train"])
        assert train["init_args"] == {"dataset": "/m", "images": 0.3, "seed": seed}
        assert f"made/generated/market/images-0-3-seed-{seed}" in jobs, "what is generated differs by subset"
    assert sum(name.startswith("made/generated/market/images") for name in jobs) == 2


@pytest.mark.parametrize(
    ("named", "subset"),
    [
        ("", {"images": 0.3}),
        ("--images {images}", {"images": 0.3, "list_file": "few.txt"}),
        ("--images {images}", {"images": 0.3, "seed": 5}),
        ("--identities {identities} --images {images}", {"images": None, "list_file": "few.txt"}),
    ],
)
def test_a_preparation_that_passes_a_part_of_the_subset_over_is_marked(
    make_grid: MakeGrid, tmp_path: Path, named: str, subset: dict[str, Any]
) -> None:
    (tmp_path / "few.txt").write_text("0002_c1s1_000001_00.jpg")
    if "list_file" in subset:
        subset = {**subset, "list_file": str(tmp_path / "few.txt")}
    run = f"pipeline --config chains/tour --root {{out}} --data {{labeled}} {named}"
    changes = {"preparations": {"generated": {"run": run}}, "settings": {"few-shot 30 %": {"subset": subset}}}
    jobs = expand(make_grid(changes))
    cells = [job.cell for job in jobs.values() if job.cell is not None and job.cell.initialization == "Diff-Person"]
    assert all(cell.sees_target == (cell.setting in ("few-shot 30 %", "USL")) for cell in cells)


@pytest.mark.parametrize("seeds", [[0, 1], [1, 0]])
def test_a_shared_preparation_is_marked_by_the_seed(make_grid: MakeGrid, seeds: list[int]) -> None:
    """It names no seed of the subset, so it is made of that of seed 0, whoever needs it first."""
    changes = {"seeds": seeds, "settings": {"few-shot 30 %": {"subset": {"seed": "{seed}"}}}}
    jobs = expand(make_grid(changes))
    cells = [jobs[f"diff-person/few-shot-30/market/seed-{seed}"].cell for seed in (0, 1)]
    assert [cell.sees_target for cell in cells if cell is not None] == [False, True]


def test_a_preparation_of_what_another_one_made_of_the_subset_is_not_marked(make_grid: MakeGrid) -> None:
    preparations = {
        "more": {"run": "pipeline --config chains/tour --root {out} --captions {generated} --seed {subset_seed}"},
        "pretrained": {"run": "fit --config stages/pretrain --data.train {more}/select"},
    }
    settings = {"few-shot 30 %": {"subset": {"identities": 0.3}}}
    run = "pipeline --config chains/tour --root {out} --data {labeled} --identities {identities} --images {images}"
    jobs = expand(make_grid({"preparations": {**preparations, "generated": {"run": run}}, "settings": settings}))
    assert not jobs["diff-person/few-shot-30/market/seed-0"].cell.sees_target  # type: ignore[union-attr]


def test_a_preparation_is_run_once_for_settings_that_give_it_the_same_words(make_grid: MakeGrid) -> None:
    made = expand(make_grid({"settings": {"few-shot 30 %": {"subset": {"identities": 0.5}}}}))
    generated = [name for name in made if name.startswith("made/generated/")]
    assert sorted(generated) == [
        f"made/generated/{data}{part}" for data in ("duke", "market") for part in ("", "/images-0-3")
    ]


def test_an_initialization_without_labels_of_the_target_uses_those_of_a_source(make_grid: MakeGrid) -> None:
    grid = make_grid({"settings": {"USL": {"labels": "source", "run": "fit --data.target {target}"}}})
    jobs = expand(grid)
    job = jobs["diff-person/usl/market-to-duke/seed-1"]
    assert job.needs == ("made/pretrained/market/seed-1",) == jobs["diff-person/supervised/market/seed-1"].needs
    assert words_of(job)["data.test"] == words_of(job)["data.target"] == "/d"
    marked = {job.name for job in jobs.values() if job.cell and job.cell.setting == "USL" and job.cell.sees_target}
    assert marked == {f"ready-weights/usl/market-to-duke/seed-{seed}" for seed in (0, 1)}


def test_words_for_a_single_dataset(make_grid: MakeGrid) -> None:
    grid = make_grid({"settings": {"USL": {"flags": {"duke": "--trainer.max_epochs 9"}}}})
    jobs = expand(grid)
    assert words_of(jobs["scratch/usl/duke/seed-0"])["trainer.max_epochs"] == "9"
    assert words_of(jobs["scratch/usl/market/seed-0"])["trainer.max_epochs"] == "2"


def test_placeholders_stand_in_all_flags(make_grid: MakeGrid) -> None:
    flags = {"flags": "--data.seed {seed}", "settings": {"supervised": {"flags": {"duke": "--name {labeled}"}}}}
    job = words_of(expand(make_grid(flags))["scratch/supervised/duke/seed-1"])
    assert (job["data.seed"], job["name"]) == ("1", "/d")


def test_labels_that_nothing_reads_do_not_count(make_grid: MakeGrid) -> None:
    jobs = expand(make_grid({"preparations": {name: {"labels": False} for name in ("generated", "pretrained")}}))
    assert not any(
        job.cell.sees_target for job in jobs.values() if job.cell and job.cell.initialization == "Diff-Person"
    )


def test_a_row_that_names_images_is_pretrained_on_them(make_grid: MakeGrid) -> None:
    row = {"init_from": "timm", "pretrained_on": "{generated}/select", "flags": "--model.drop_path_rate 0.1"}
    added = {"on train": {"pretrained_on": "{train}"}, "elsewhere": {"pretrained_on": "/data/others"}, "ours": row}
    grid = make_grid({"pretrain": "fit --config stages/pretrain", "initializations": added})
    jobs = expand(grid)
    few = jobs["ours/few-shot-30/market/seed-1"]
    made = jobs["made/pre-trained/ours/market/images-0-3/seed-1"]
    assert few.needs == (made.name,) and made.needs == ("made/generated/market/images-0-3",)
    assert words_of(few)["model.init_from"] == f"ROOT/{made.folder}/fit-001/backbone"
    assert words_of(made) == {
        "config": "stages/pretrain",
        "data.train": f"ROOT/{jobs['made/generated/market/images-0-3'].folder}/select",
        "seed_everything": "1",
        "model.init_from": "timm",
        "trainer.max_epochs": "2",
        "model.drop_path_rate": "0.1",
        "trainer.default_root_dir": f"ROOT/{made.folder}",
    }
    assert (made.weights, few.weights) == ("timm", None)
    assert json.loads(words_of(jobs["made/pre-trained/on-train/duke/images-0-3/seed-0"])["data.train"])["init_args"]
    assert words_of(jobs["made/pre-trained/elsewhere/seed-0"])["data.train"] == "/data/others"
    seeing = {job.cell.initialization: set() for job in jobs.values() if job.cell is not None}
    for job in jobs.values():
        if job.cell is not None and job.cell.sees_target:
            seeing[job.cell.initialization].add(job.cell.setting)
    assert (seeing["ours"], seeing["on train"], seeing["elsewhere"]) == ({"USL"}, {"USL"}, set())


def test_rows_chosen_on_val_hold_identities_out(make_grid: MakeGrid) -> None:
    settings = {
        "direct": None,
        "supervised": {"run": "fit --config stages/transfer"},
        "USL": {"run": "fit --config stages/transfer --data.val_share 0.2"},
        "clusters": {"run": "fit --config recipes/usl --data.target {target}"},
    }
    changes = {
        "evaluate": "val",
        "settings": settings,
        "pretrain": "fit --config stages/pretrain",
        "initializations": {"on train": {"pretrained_on": "{train}"}},
    }
    jobs = expand(make_grid(changes))
    made = words_of(jobs["made/pre-trained/on-train/duke/seed-0"])
    assert (made["data.train"], made["data.val_share"]) == ("/d", "null"), "nor are they pre-trained on"
    assert words_of(jobs["scratch/supervised/duke/seed-0"])["data.val_share"] == "null", "the stage holds none out"
    assert words_of(jobs["scratch/usl/duke/seed-0"])["data.val_share"] == "0.2"
    assert words_of(jobs["scratch/usl/duke/seed-0"])["test_with"] == "none"
    assert words_of(jobs["scratch/clusters/duke/seed-0"])["data.val_share"] == "null", "nor does its class"


def test_rows_chosen_on_val_validate_their_last_epoch(make_grid: MakeGrid) -> None:
    """The results of an earlier epoch, or none after hours of training, would be compared."""
    changes: dict[str, Any] = {
        "evaluate": "val",
        "settings": {"direct": None, "supervised": {"run": "fit --config stages/transfer"}, "USL": None},
        "initializations": {"short": {"init_from": "timm", "flags": "--trainer.max_epochs 12"}},
    }
    assert len(expand(make_grid(changes))) > 0, "the stage validates the last epoch, whichever it is"
    changes["flags"] = "--trainer.check_val_every_n_epoch 5"
    with pytest.raises(UserError, match=r"'supervised' from 'short' .* last epoch") as refused:
        expand(make_grid(changes))
    assert "trainer.max_epochs 12, trainer.check_val_every_n_epoch 5" in str(refused.value)
    changes["flags"] += " --trainer.max_epochs 15"
    changes["initializations"]["short"]["flags"] = ""
    assert len(expand(make_grid(changes))) > 0
    changes["flags"] += " --trainer.max_steps 7"
    with pytest.raises(UserError, match="may end within an epoch"):
        expand(make_grid(changes))


def test_labels_of_datasets_stay_as_they_are_in_a_subset(make_grid: MakeGrid) -> None:
    """What stands for the dataset's path is replaced as text."""
    changes: dict[str, Any] = {
        "datasets": {"Köln": "/k"},
        "settings": {"direct": None, "few": {"run": "fit --config stages/transfer", "subset": {"images": 0.3}}},
    }
    jobs = expand(make_grid(changes)).values()
    job = next(each for each in jobs if each.cell and (each.cell.dataset, each.cell.setting) == ("Köln", "few"))
    assert "<data:Köln>" in words_of(job)["data.train"]


@pytest.mark.parametrize(("split", "run"), [("test", "test"), ("val", "validate")])
def test_weights_are_evaluated_as_they_are(make_grid: MakeGrid, split: str, run: str) -> None:
    changes = {
        "evaluate": split,
        "pretrain": "fit --config stages/pretrain",
        "initializations": {"on train": {"pretrained_on": "{train}"}},
        "settings": {"direct": None, "as it is": {"run": f"{run} --config stages/transfer"}},
    }
    jobs = expand(make_grid(changes))
    made, cell = jobs["made/pre-trained/on-train/duke/seed-1"], words_of(jobs["on-train/as-it-is/duke/seed-1"])
    assert cell["model.init_from"] == f"ROOT/{made.folder}/fit-001/backbone" and cell["data.test"] == "/d"
    assert "test_with" not in cell, "nothing is trained"
    assert not any(name.startswith("scratch/as-it-is") for name in jobs), "random weights are no result"
    held_out = {words_of(made).get("data.val_share"), cell.get("data.val_share")}
    assert held_out == ({"null"} if split == "val" else {None}), "pre-training must not see people of val either"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"preparations": {"generated": {"run": "select --out {out} --scored {pretrianed}"}}},
            "did you mean {pretrained}",
        ),
        ({"preparations": {"generated": {"run": "select --out {pretrained}"}}}, "in a circle: "),
        ({"settings": {"supervised": {"run": "fit --data.train {source}"}}}, "{source} in the command of the setting"),
        ({"settings": {"USL": {"run": "predict"}}}, "no training or test"),
        ({"settings": {"USL": {"run": "fit --config recipes/nothing"}}}, "There is no config"),
    ],
)
def test_commands_that_cannot_be_built_are_refused(make_grid: MakeGrid, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        expand(make_grid(changes))
    assert words in str(refused.value)


def test_only_takes_what_a_cell_needs_with_it(make_grid: MakeGrid) -> None:
    jobs = expand(make_grid())
    rng = random.Random(0)
    for pattern in ["diff-person/direct/market-to-duke/seed-1", "scratch", "*/usl/*", *rng.sample(sorted(jobs), 8)]:
        chosen = choose(jobs, pattern)
        assert all(need in chosen for job in chosen.values() for need in job.needs)
        assert [name for name in jobs if name in chosen] == list(chosen)
    assert list(choose(jobs, "diff-person/direct/market-to-duke/seed-1")) == [
        "made/generated/market",
        "made/pretrained/market/seed-1",
        "diff-person/supervised/market/seed-1",
        "diff-person/direct/market-to-duke/seed-1",
    ]
    assert {name.split("/")[0] for name in choose(jobs, "scratch")} == {"scratch"}
    several = choose(jobs, "diff-person/usl/*/seed-1", "scratch")
    assert several.keys() == choose(jobs, "scratch").keys() | choose(jobs, "diff-person/usl/*/seed-1").keys()
    with pytest.raises(UserError, match="did you mean 'scratch/supervised/market/seed-0'"):
        choose(jobs, "scratch/supervised/marked/seed-0")


def test_keys_do_not_depend_on_the_shell_that_asks(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {"preparations": {"generated": {"run": "pipeline --config chains/tour --root {out} --data {labeled}"}}}
    before = {name: job.key for name, job in expand(make_grid(chain)).items()}
    monkeypatch.setenv("DIFFREID_SEED", "7")
    forget()
    assert {name: job.key for name, job in expand(make_grid(chain)).items()} == before
    forget()


def test_a_yaml_file_that_a_flag_names_counts_by_its_content(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.yaml"
    file.write_text("warmup_epochs: 1\n")
    changes = {"flags": f"--model {file}"}
    before = expand(make_grid(changes))["scratch/supervised/market/seed-0"].key
    assert expand(make_grid(changes))["scratch/supervised/market/seed-0"].key == before
    file.write_text("warmup_epochs: 2\n")
    assert expand(make_grid(changes))["scratch/supervised/market/seed-0"].key != before
