"""Subsets of the training rows: sizes, nesting, and that nothing else is touched."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffreid_lightning.datasets import MiniPerson, Subset
from diffreid_lightning.datasets.subset_selection import few_shot, listed, read_names, small_scale
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule
from tests.fixtures.dataset_layouts import write_market1501


@pytest.fixture(scope="module")
def whole() -> Manifest:
    """40 training people with 1 to 10 images, a val person and a query, in a shuffled order."""
    rows = [(pid, shot, "train") for pid in range(1, 41) for shot in range(1 + pid % 10)]
    rows += [(90, 0, "val"), (90, 1, "val"), (91, 0, "query"), (91, 1, "gallery")]
    order = np.random.default_rng(5).permutation(len(rows))
    rows = [rows[index] for index in order]
    columns = {
        "file_name": [f"{split}/{pid:04d}_{shot}.jpg" for pid, shot, split in rows],
        "source": "toy",
        "partition": ["train" if split in ("train", "val") else "test" for *_, split in rows],
        "pid": [pid for pid, *_ in rows],
        "camid": [shot for _, shot, _ in rows],
        "split": [split for *_, split in rows],
        "role": "identity",
    }
    return Manifest.from_columns(Path("nowhere"), columns)


def names(manifest: Manifest, split: str = "train") -> set[str]:
    table = manifest.table.to_pylist()
    return {row["file_name"] for row in table if row["split"] == split}


def people(manifest: Manifest) -> Counter[int]:
    return Counter(row["pid"] for row in manifest.table.to_pylist() if row["split"] == "train")


@pytest.mark.parametrize(("asked", "expected"), [(0.1, 4), (0.3, 12), (1.0, 40), (7, 7), (7.0, 7), (1, 1)])
def test_small_scale_keeps_whole_people(whole: Manifest, asked: float, expected: int) -> None:
    left = whole.filter(small_scale(whole, asked, seed=3))
    assert len(people(left)) == expected
    assert all(count == people(whole)[pid] for pid, count in people(left).items())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 1.0])
def test_few_shot_keeps_every_person(whole: Manifest, share: float) -> None:
    left = people(whole.filter(few_shot(whole, share, seed=3)))
    for pid, count in people(whole).items():
        assert left[pid] == max(1, round(share * count))


@pytest.mark.parametrize("choose", [small_scale, few_shot])
def test_smaller_subsets_lie_in_larger_ones(whole: Manifest, choose) -> None:  # type: ignore[no-untyped-def]
    for seed in range(3):
        small, large = (names(whole.filter(choose(whole, share, seed))) for share in (0.1, 0.3))
        assert small < large
    assert len({frozenset(names(whole.filter(choose(whole, 0.3, seed)))) for seed in range(5)}) == 5


@pytest.mark.parametrize("choose", [small_scale, few_shot])
def test_neither_the_other_splits_nor_the_order_of_rows_matter(whole: Manifest, choose) -> None:  # type: ignore[no-untyped-def]
    left = whole.filter(choose(whole, 0.3, 1))
    for split in ("val", "query", "gallery"):
        assert names(left, split) == names(whole, split)
    turned = whole.take(np.arange(len(whole))[::-1])
    assert names(turned.filter(choose(turned, 0.3, 1))) == names(left)


@pytest.mark.parametrize(
    ("choose", "value"), [(small_scale, 0), (small_scale, 41), (small_scale, 1.2), (few_shot, 0.0)]
)
def test_a_size_out_of_range_is_refused(whole: Manifest, choose, value: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError):
        choose(whole, value, 0)


def test_a_published_list_names_the_images_that_stay(whole: Manifest, tmp_path: Path) -> None:
    chosen = sorted(names(whole))[::7]
    file = tmp_path / "list.txt"
    file.write_text("# LUPerson's form\n\n" + "".join(f"{Path(name).name} {7}\n" for name in chosen))
    left = whole.filter(listed(whole, read_names(file)))
    assert names(left) == set(chosen)
    file.write_text("\n".join(chosen), encoding="utf-8-sig")  # as editors on Windows save it
    assert read_names(file) == chosen
    assert all(names(left, split) == names(whole, split) for split in ("val", "query", "gallery"))
    assert names(whole.filter(listed(whole, chosen))) == set(chosen)


@pytest.mark.parametrize("wrong", [["0001_0.jpg", "nobody.jpg"], ["0091_0.jpg"], []])
def test_a_list_of_something_else_is_refused(whole: Manifest, wrong: list[str]) -> None:
    with pytest.raises(UserError, match="does not name training images"):
        listed(whole, wrong)


def test_a_pickled_list_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(["0002_c1s1_000451_03.jpg"]))
    with pytest.raises(UserError, match="pickles are not opened"):
        read_names(tmp_path / "list.pkl")
    with pytest.raises(UserError, match="list_file replaces"):
        Subset("miniperson", images=0.5, list_file="list.txt")


def test_a_subset_of_a_list_is_a_dataset(tmp_path: Path) -> None:
    everything = MiniPerson().manifest()
    chosen = sorted(names(everything))[:40]
    (tmp_path / "list.txt").write_text("\n".join(chosen))
    subset = Subset("miniperson", list_file=str(tmp_path / "list.txt"))
    assert names(subset.manifest()) == set(chosen)
    assert str(tmp_path / "list.txt") in subset.description
    assert subset.config()["init_args"]["list_file"] == str(tmp_path / "list.txt")


def test_a_subset_is_a_dataset() -> None:
    subset = Subset("miniperson", identities=64, images=0.5, seed=1)
    manifest, everything = subset.manifest(), MiniPerson().manifest()
    assert len(people(manifest)) == 64
    assert names(manifest, "query") == names(everything, "query")
    assert names(manifest) < names(everything)
    assert subset.source == MiniPerson().source and "64 identities" in subset.description


def test_a_subset_says_each_thing_once(tmp_path: Path) -> None:
    write_market1501(tmp_path / "market")
    (tmp_path / "market/bounding_box_train/0002_c1s1_000001_00.heic").write_bytes(b"0")
    subset = Subset(str(tmp_path / "market"), identities=0.5)
    assert subset.description.endswith("of its training rows 50% of the identities (seed 0)")
    assert "3 identities" in Subset("miniperson", identities=3.0).description
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subset.manifest()
    said = [str(each.message) for each in caught]
    assert len([text for text in said if "heic" in text]) == 1
    assert len([text for text in said if "published counts" in text]) == 1


def test_a_subset_is_all_that_is_trained_on() -> None:
    subset = Subset("miniperson", images=0.3)
    chosen, validation = names(subset.manifest(), "train"), names(subset.manifest(), "val")
    assert len(validation) > 100
    for share in (0.0, None):
        data = ReIDDataModule(train=subset, val_share=share)
        assert set(map(str, data.train_set.rows.file_names)) == chosen
        assert (data.val_set is None) == (share == 0.0)
    whole = ReIDDataModule(train="miniperson", val_share=0.0)  # val is trained on, as MSMT17's is
    assert set(map(str, whole.train_set.rows.file_names)) == names(MiniPerson().manifest(), "train") | validation
    unlabeled = UnlabeledDataModule(target=subset)
    assert set(map(str, unlabeled.train_set.rows.file_names)) == chosen
