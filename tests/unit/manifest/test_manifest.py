from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import replace_folder
from tests.fixtures.dataset_layouts import put, write_market1501, zip_folder

GENERATED = {
    "source_pid": 7,
    "prompt": "a photo of <p7> from the back",
    "attributes": '{"view": "back"}',
    "seed": 3,
    "generator": "f" * 64,
}


def columns(n: int = 4, **changed: Any) -> dict[str, Any]:
    base = {
        "file_name": [f"train/{i:04d}.jpg" for i in range(n)],
        "source": "market1501",
        "partition": "train",
        "pid": [i // 2 for i in range(n)],
        "camid": [i % 2 + 1 for i in range(n)],
        "split": "train",
        "role": "identity",
    }
    return {key: value for key, value in (base | changed).items() if value is not ...}


def random_columns(seed: int, n: int = 60) -> dict[str, Any]:
    rng = random.Random(seed)
    splits = rng.choices(["train", "query", "gallery", "val"], k=n)
    return columns(
        n,
        source=rng.choices(["market1501", "msmt17", "ä"], k=n),
        partition=rng.choices(["train", "test"], k=n),
        pid=[rng.randrange(5) for _ in range(n)],
        camid=[rng.randrange(20) for _ in range(n)],
        split=splits,
        role=["distractor" if split == "gallery" and rng.random() < 0.3 else "identity" for split in splits],
        caption=[rng.choice([None, "", "a man in red", "ü" * rng.randrange(9)]) for _ in range(n)],
        confidence=[rng.choice([None, rng.random()]) for _ in range(n)],
        kept=[rng.choice([None, True, False]) for _ in range(n)],
        height=pa.array([rng.randrange(300) for _ in range(n)], pa.int16()),
    )


# --- construction


def test_from_columns_gives_the_contracts_types_and_order(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(tmp_path, columns(zoo=1.5, name=["a", "b", "c", "d"], kept=True))
    assert manifest.columns == (
        *("file_name", "source", "partition", "pid", "camid", "split", "role", "caption"),
        *("kept", "name", "zoo"),
    )
    assert [manifest.table.schema.field(name).type for name in ("file_name", "pid", "camid")] == [
        pa.string(),
        pa.int64(),
        pa.int64(),
    ]
    assert manifest.numpy("caption").tolist() == [None] * 4
    assert manifest.numpy("source").tolist() == ["market1501"] * 4
    assert len(manifest) == 4 and "4 images" in repr(manifest)


@pytest.mark.parametrize(
    "pid",
    [
        [0, 0, 1, 1],
        np.array([0, 0, 1, 1], np.int32),
        np.array([0, 0, 1, 1], np.uint8),
        pa.array([0, 0, 1, 1], pa.int16()),
        pa.chunked_array([[0], [0, 1, 1]]),
    ],
)
def test_equal_values_of_any_integer_type_make_equal_manifests(tmp_path: Path, pid: Any) -> None:
    reference = Manifest.from_columns(tmp_path, columns())
    assert Manifest.from_columns(tmp_path, columns(pid=pid)).content_hash == reference.content_hash


def test_texts_of_any_arrow_encoding_make_equal_manifests(tmp_path: Path) -> None:
    names = columns()["file_name"]
    reference = Manifest.from_columns(tmp_path, columns()).content_hash
    plain = pa.array(names)
    encodings = [
        plain.dictionary_encode(),
        plain.cast(pa.large_string()),
        plain.cast(pa.string_view()),
        np.array(names),
    ]
    for encoding in encodings:
        assert Manifest.from_columns(tmp_path, columns(file_name=encoding)).content_hash == reference


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"pid": ..., "pids": [0, 0, 1, 1]}, "rename 'pids' to 'pid'"),
    ({"file_name": ..., "filename": list("abcd")}, "rename 'filename' to 'file_name'"),
    ({"role": ...}, "lacks columns: role"),
    ({"pid": [0, 1, 2]}, "differ in length"),
    ({"pid": ["0", "1", "2", "x"]}, "wrong type"),
    ({"pid": [0.5, 1.0, 2.0, 3.0]}, "wrong type"),
    ({"pid": pa.array([2**63, 0, 1, 2], pa.uint64())}, "wrong type"),
    ({"pid": pa.array([0.0, 1.0, 2.0, 3.0])}, "wrong type"),
    ({"caption": [1, 2, 3, 4]}, "wrong type"),
    ({"kept": pa.array([1, 0, 1, 0])}, "wrong type"),
    ({"file_name": ["a.jpg", "b.jpg", "bad\udcff.jpg", "d.jpg"]}, "not valid Unicode"),
    ({"pid": [0, None, 1, 1]}, "'pid' holds nulls"),
    ({"source": ["a", "a", None, "a"]}, "'source' holds nulls"),
    ({"source": ["a", "a", "", "a"]}, "'source' is empty"),
    ({"pid": [0, 0, -1, 1]}, "negative pids"),
    ({"split": ["train", "test", "train", "train"]}, "'test'"),
    ({"split": "Train"}, "'Train'"),
    ({"role": ["identity", "junk", "identity", "identity"]}, "'junk'"),
    ({"role": "distractor"}, "distractors in another split"),
    ({"role": "distractor", "split": "query"}, "distractors in another split"),
    ({"file_name": ["a.jpg", "b.jpg", "a.jpg", "d.jpg"]}, "1 names: a.jpg"),
    ({"confidence": [0.1, float("nan"), 0.2, 0.3]}, "not finite"),
    ({"margin": [0.1, float("inf"), 0.2, None]}, "not finite"),
    ({"split": "generated"}, "lacks columns: source_pid, prompt, attributes, seed, generator"),
    ({"split": "generated", **GENERATED, "seed": ..., "seeds": 3}, "rename 'seeds' to 'seed'"),
    ({"split": "generated", **GENERATED, "prompt": ["a", None, "b", "c"]}, "without 'prompt'"),
]
BROKEN += [
    ({"file_name": ["a.jpg", name, "c.jpg", "d.jpg"]}, "leave the manifest's folder")
    for name in (
        "/etc/passwd",
        "../x.jpg",
        "a/../x.jpg",
        "a\\b.jpg",
        "C:/x.jpg",
        "a//b.jpg",
        "./b.jpg",
        "a/..",
        "",
        "a/",
    )
]


@pytest.mark.parametrize(("changed", "message"), BROKEN)
def test_broken_rows_are_refused_on_construction_and_on_read(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=r"(?s).+") as error:
        Manifest.from_columns(tmp_path, columns(**changed))
    assert message in str(error.value)
    try:
        table = pa.table({key: _spread(value, 4) for key, value in columns(**({"caption": None} | changed)).items()})
    except (pa.ArrowException, ValueError):  # what Arrow itself cannot hold cannot be read either
        return
    pq.write_table(table, tmp_path / "metadata.parquet")
    with pytest.raises(UserError) as error:
        Manifest.read(tmp_path)
    assert str(tmp_path / "metadata.parquet") in str(error.value)


def _spread(value: Any, n: int) -> Any:
    return [value] * n if value is None or isinstance(value, (str, int, float)) else value


def test_names_with_dots_that_stay_inside_are_accepted(tmp_path: Path) -> None:
    names = ["..a.jpg", "a../b.jpg", "a/.../c.jpg", "a/b..jpg"]
    assert Manifest.from_columns(tmp_path, columns(file_name=names)).numpy("file_name").tolist() == names


def test_generated_rows_beside_real_ones(tmp_path: Path) -> None:
    some = {key: [None, None, value, value] for key, value in GENERATED.items()}
    manifest = Manifest.from_columns(tmp_path, columns(split=["train", "train", "generated", "generated"], **some))
    assert manifest.filter(manifest.numpy("split") == "generated").numpy("source_pid").tolist() == [7, 7]
    with pytest.raises(UserError, match="no value in some rows"):
        manifest.numpy("source_pid")


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    table = Manifest.from_columns(tmp_path, columns()).table
    with pytest.raises(UserError, match="occur twice"):
        Manifest(table.append_column("pid", table["pid"]), tmp_path)


def test_an_empty_manifest_is_valid(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(tmp_path, columns(0))
    labels, keys = Manifest.read(manifest.write(tmp_path)).identities()
    assert len(labels) == 0 and keys == []


# --- reading and writing


@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_is_read(tmp_path: Path, seed: int) -> None:
    manifest = Manifest.from_columns(tmp_path, random_columns(seed), parents=["a" * 64, "b" * 64])
    file = manifest.write(tmp_path / "deep" / "er")
    again = Manifest.read(tmp_path / "deep" / "er")
    assert file == tmp_path / "deep" / "er" / "metadata.parquet"
    assert again.table.equals(manifest.table) and again.parents == manifest.parents
    assert again.root == tmp_path and again.content_hash == manifest.content_hash
    assert Manifest.read(file).table.equals(manifest.table)


def test_equal_rows_give_equal_bytes_whatever_their_chunks_and_order_of_columns(tmp_path: Path) -> None:
    data = random_columns(1)
    first = Manifest.from_columns(tmp_path / "images", data).write(tmp_path / "first")
    backwards = Manifest.from_columns(tmp_path / "images", dict(reversed(data.items())))
    pieces = [backwards.take(np.arange(start, min(start + 7, 60))) for start in range(0, 60, 7)]
    chunked = Manifest(pa.concat_tables([piece.table for piece in pieces]), tmp_path / "images")
    second = chunked.write(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() == Manifest.read(first).write(tmp_path / "third").read_bytes()


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Manifest.from_columns(tmp_path, columns()).write(tmp_path)
    before = file.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(RunError, match="cannot be written"):
        Manifest.from_columns(tmp_path, columns(2)).write(tmp_path)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["metadata.parquet"]


def test_the_file_appears_only_by_a_rename_after_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *where: (events.append("replace"), replace(*where))[1])
    Manifest.from_columns(tmp_path, columns()).write(tmp_path)
    assert events[:2] == ["fsync", "replace"]


def test_writing_below_a_file_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        Manifest.from_columns(tmp_path, columns()).write(tmp_path / "taken")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 100])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.parquet").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        Manifest.read(tmp_path)


def test_texts_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    file = Manifest.from_columns(tmp_path, columns()).write(tmp_path)
    table = pq.read_table(file)
    names = pa.array([b"\xff" + name.encode() for name in table["file_name"].to_pylist()], pa.binary())
    broken = pa.StringArray.from_buffers(len(names), *names.buffers()[1:])
    for column in ("file_name", "caption"):
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, broken), file)
        with pytest.raises(UserError, match="cannot be read"):
            Manifest.read(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    file = Manifest.from_columns(tmp_path, columns()).write(tmp_path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(UserError, match="cannot be read"):
        Manifest.read(file)


def test_a_missing_manifest_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "meta.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"meta\.parquet"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match="nothing at"):
        Manifest.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (b'{"schema": 99}', "newer version"),
        (b'{"schema": "one"}', "damaged"),
        (b'{"schema": ' + b"9" * 400 + b"}", "newer version"),
        (b'{"parents": 3}', "damaged"),
        (b'{"images": null}', "damaged"),
        (b"[]", "damaged"),
        (b"{", "damaged"),
    ],
)
def test_notes_of_other_versions_and_damaged_ones_are_refused(tmp_path: Path, note: bytes, message: str) -> None:
    table = Manifest.from_columns(tmp_path, columns()).table
    pq.write_table(table.replace_schema_metadata({b"diffreid_lightning": note}), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match=message):
        Manifest.read(tmp_path)


def test_a_file_by_another_tool_is_a_manifest_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pid=3"  # a name that partitioned readers take for a column
    folder.mkdir()
    reference = Manifest.from_columns(folder, columns())
    pq.write_table(reference.table, folder / "metadata.parquet", compression="gzip", row_group_size=1)
    manifest = Manifest.read(folder)
    assert manifest.root == folder and manifest.parents == ()
    assert manifest.content_hash == reference.content_hash


@pytest.mark.parametrize(
    ("folder", "options"), [("images", {}), ("0007", {}), ("train", {"data_files": "**"})], ids=lambda value: str(value)
)
def test_stock_datasets_opens_the_folder_as_images_with_their_columns(
    folder: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = [f"{folder}/{index}.png" for index in range(4)]
    for index, name in enumerate(names):
        put(tmp_path / "set" / name, index, 1)
    mixed = columns(caption=["a man", None, "", "ü"], confidence=[0.5, None, 0.25, 1.0], kept=[True, False, None, True])
    manifest = Manifest.from_columns(tmp_path / "set", mixed | {"file_name": names, "split": ["train", "val"] * 2})
    manifest.write(tmp_path / "set")
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"), **options
    )
    assert opened.column_names == ["image", *manifest.columns[1:]]
    rest = opened.remove_columns("image").to_list()
    assert rest == manifest.table.drop_columns("file_name").to_pylist()
    for name, image in zip(names, opened["image"], strict=True):
        with Image.open(tmp_path / "set" / name) as expected:
            assert image.tobytes() == expected.tobytes()


# --- the image root


def test_manifest_and_images_move_together(tmp_path: Path) -> None:
    put(tmp_path / "a" / "images" / "train" / "0000.jpg", 1, 1)
    Manifest.from_columns(tmp_path / "a" / "images", columns(1)).write(tmp_path / "a" / "stages" / "one")
    Manifest.from_columns(tmp_path / "a" / "images", columns(1)).write(tmp_path / "a" / "images")
    (tmp_path / "a").rename(tmp_path / "b")
    for place in ("stages/one", "images"):
        manifest = Manifest.read(tmp_path / "b" / place)
        assert manifest.root == tmp_path / "b" / "images"
        assert manifest.images.image("train/0000.jpg").size == (16, 32)


def test_images_far_away_are_recorded_by_absolute_path(tmp_path: Path) -> None:
    far = tmp_path / "a" / "b" / "c" / "d" / "e"
    file = Manifest.from_columns(tmp_path / "images", columns()).write(far)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(file, moved)
    assert Manifest.read(moved).root == tmp_path / "images"


def test_a_linked_folder_of_a_stage_finds_its_images(tmp_path: Path) -> None:
    put(tmp_path / "home" / "set" / "train" / "0000.jpg", 1, 1)
    (tmp_path / "disk" / "deep" / "out").mkdir(parents=True)
    (tmp_path / "home" / "out").symlink_to(tmp_path / "disk" / "deep" / "out", target_is_directory=True)
    manifest = Manifest.from_columns(tmp_path / "home" / "set", columns(1))
    with replace_folder(tmp_path / "home" / "out") as partial:
        manifest.write(partial)
    assert Manifest.read(tmp_path / "home" / "out").images.names() == manifest.images.names()
    manifest.write(tmp_path / "home" / "out")
    assert Manifest.read(tmp_path / "home" / "out").images.names() == manifest.images.names()


def test_images_in_an_archive(tmp_path: Path) -> None:
    folder = write_market1501(tmp_path / "market")
    archive = zip_folder(folder, tmp_path / "market.zip", inside="Market")
    name = "query/0001_c1s1_000000_00.jpg"
    Manifest.from_columns(archive / "Market", columns(1, file_name=[name])).write(tmp_path / "out")
    manifest = pickle.loads(pickle.dumps(Manifest.read(tmp_path / "out")))
    assert manifest.images.read(name) == (folder / name).read_bytes()


def test_a_manifest_inside_an_archive(tmp_path: Path) -> None:
    put(tmp_path / "set" / "train" / "0000.jpg", 1, 1)
    Manifest.from_columns(tmp_path / "set", columns(1)).write(tmp_path / "set")
    archive = zip_folder(tmp_path / "set", tmp_path / "set.zip", inside="inner")
    manifest = Manifest.read(archive / "inner")
    assert manifest.images.image("train/0000.jpg").size == (16, 32)
    with pytest.raises(UserError, match=r"inner/metadata\.parquet"):
        Manifest.read(archive)


def test_rows_can_be_used_where_the_images_are_not(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(tmp_path / "gone", columns())
    assert len(manifest.filter(manifest.numpy("pid") == 1)) == 2
    with pytest.raises(UserError, match="nothing at"):
        _ = manifest.images


# --- the hash


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_follows_every_cell_and_nothing_else(tmp_path: Path, seed: int) -> None:
    data = random_columns(seed)
    manifest = Manifest.from_columns(tmp_path, data)
    elsewhere = Manifest.from_columns("/another/place", data, parents=["p"])
    assert elsewhere.content_hash == manifest.content_hash
    sliced = Manifest(pa.concat_tables([manifest.table.slice(0, 13), manifest.table.slice(13)]), tmp_path)
    assert sliced.content_hash == manifest.content_hash
    rng = random.Random(seed)
    row = rng.randrange(60)
    changes: dict[str, Any] = {
        "pid": 77,
        "camid": 77,
        "caption": "x" * 40,
        "confidence": 0.123,
        "height": 301,
        "source": "z",
    }
    for name, value in changes.items():
        values = manifest.table[name].to_pylist()
        values[row] = value
        changed = manifest.with_columns({name: pa.array(values, manifest.table.schema.field(name).type)})
        assert changed.content_hash != manifest.content_hash, name
    swapped = np.arange(60)
    swapped[[0, 59]] = 59, 0
    assert manifest.take(swapped).content_hash != manifest.content_hash
    assert manifest.filter(np.arange(60) != row).content_hash != manifest.content_hash
    assert manifest.with_columns({"height": data["height"].cast(pa.int32())}).content_hash != manifest.content_hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["", None], [None, ""]),
        ([None, None], ["", ""]),
    ],
)
def test_the_hash_tells_texts_apart_by_where_they_end(tmp_path: Path, one: list[str], other: list[str]) -> None:
    first, second = (Manifest.from_columns(tmp_path, columns(2, caption=caption)) for caption in (one, other))
    assert first.content_hash != second.content_hash


def test_the_hash_does_not_see_what_lies_under_a_null(tmp_path: Path) -> None:
    hidden = pa.array(np.array([1, 2, 3, 4]), mask=np.array([False, True, False, True]))
    clean = pa.array([1, None, 3, None])
    first, second = (Manifest.from_columns(tmp_path, columns(extra=values)) for values in (hidden, clean))
    assert first.content_hash == second.content_hash


def test_nested_and_calendar_extra_columns_are_kept_and_hashed(tmp_path: Path) -> None:
    boxes = pa.array([[1, 2], [], None, [3]])
    manifest = Manifest.from_columns(tmp_path, columns(box=boxes))
    again = Manifest.read(manifest.write(tmp_path))
    assert again.content_hash == manifest.content_hash and again.table["box"].to_pylist() == boxes.to_pylist()
    other = manifest.with_columns({"box": pa.array([[1, 2], None, [], [3]])})
    assert other.content_hash != manifest.content_hash


# --- identities and row operations


@pytest.mark.parametrize("seed", range(8))
def test_identities_against_plain_python(tmp_path: Path, seed: int) -> None:
    data = random_columns(seed)
    triples = list(zip(data["source"], data["partition"], data["pid"], strict=True))
    expected = sorted(set(triples))
    labels, keys = Manifest.from_columns(tmp_path, data).identities()
    assert keys == expected and labels.dtype == np.int64
    assert labels.tolist() == [expected.index(triple) for triple in triples]


def test_one_number_in_train_and_test_is_two_people(tmp_path: Path) -> None:
    data = columns(2, pid=[0, 0], partition=["train", "test"], split=["train", "query"])
    labels, keys = Manifest.from_columns(tmp_path, data).identities()
    assert keys == [("market1501", "test", 0), ("market1501", "train", 0)] and labels.tolist() == [1, 0]


def test_filter_take_and_with_columns(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(tmp_path, columns(), parents=["p"])
    assert manifest.filter([True, False, False, True]).numpy("camid").tolist() == [1, 2]
    assert manifest.take([3, 0]).numpy("file_name").tolist() == ["train/0003.jpg", "train/0000.jpg"]
    captioned = manifest.with_columns({"caption": ["a", "b", None, "d"], "confidence": 1})
    assert captioned.numpy("caption").tolist() == ["a", "b", None, "d"]
    assert captioned.numpy("confidence").tolist() == [1.0] * 4 and captioned.parents == ("p",)
    assert "confidence" not in manifest.columns
    assert captioned.with_parents([manifest.content_hash]).parents == (manifest.content_hash,)


@pytest.mark.parametrize("mask", [[True], [1, 0, 1, 0], [[True], [True], [True], [True]]])
def test_a_mask_of_another_shape_or_type_is_refused(tmp_path: Path, mask: Any) -> None:
    with pytest.raises(ValueError, match="bool mask"):
        Manifest.from_columns(tmp_path, columns()).filter(mask)


def test_taking_a_row_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than once"):
        Manifest.from_columns(tmp_path, columns()).take([0, 0])


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'camid'"):
        Manifest.from_columns(tmp_path, columns()).numpy("cam_id")


def test_a_manifest_cannot_be_changed(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(tmp_path, columns())
    with pytest.raises(AttributeError):
        manifest.root = tmp_path / "x"  # type: ignore[misc]
