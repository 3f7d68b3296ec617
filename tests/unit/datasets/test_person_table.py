"""Tables of images: what spreadsheets, data frames and hands make of path, person and camera."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffreid_lightning.datasets import ManifestDataset, PersonTable, detect
from diffreid_lightning.datasets.inspect import check
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import put, zip_folder

ROWS = [(f"img/{p}_{c}_{k}.jpg", str(p), str(c)) for p in (1, 2, 10) for c in (1, 2) for k in (1, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, (name, pid, camera) in enumerate(ROWS):
        put(tmp_path / "set" / name, int(pid), int(camera), index)
    return tmp_path / "set"


def csv(head: str = "path,pid,camid", line: str = "{0},{1},{2}", rows: list[tuple[str, str, str]] = ROWS) -> str:
    return "".join(f"{one}\n" for one in (head, *(line.format(*row) for row in rows)))


@pytest.mark.parametrize(
    "data",
    [
        csv().encode(),
        csv().encode("utf-8-sig"),
        csv().replace(",", "\t").encode("utf-16"),
        csv("Image Path;Person ID;Camera", "./{0};{1};{2}").replace("/", "\\").replace("\n", "\r\n").encode(),
        csv("id,file_name,identity,cam", "77,{0},{1}.0,{2}.0").encode(),
        csv("split,path,pid,camid", '"train","{0}","{1}","{2}"').encode(),
        csv(rows=[*ROWS, ROWS[3]]).encode(),
        csv(rows=[*ROWS, ("img/1_1_1.jpg", "-1", "1")][1:]).encode(),
    ],
    ids=["plain", "mark", "utf16", "windows", "floats", "quotes", "twice", "junk"],
)
def test_spellings_of_one_table(folder: Path, data: bytes, request: pytest.FixtureRequest) -> None:
    (folder / "labels.csv").write_bytes(data)
    dataset = detect(folder / "labels.csv")
    manifest, junk = dataset.scan()
    assert isinstance(dataset, PersonTable) and junk == ("junk" in request.node.name)
    expected = [(name, int(pid), int(camera)) for name, pid, camera in ROWS][junk:]
    columns = (manifest.numpy(column).tolist() for column in ("file_name", "pid", "camid"))
    assert list(zip(*columns, strict=True)) == expected
    assert bool(dataset.notes) == any(word in request.node.name for word in ("twice", "floats"))


@pytest.mark.parametrize("heading", ["is_query", "isTrain", "fold", "Usage", "train_test_split"])
def test_columns_that_speak_of_splits_are_refused(folder: Path, heading: str) -> None:
    (folder / "labels.csv").write_text(csv(f"path,pid,camid,{heading}", "{0},{1},{2},1"))
    with pytest.raises(UserError, match=f"seem to hold splits.*{heading}"):
        check(folder / "labels.csv")
    (folder / "labels.csv").write_text(csv(f"path,pid,camid,split,{heading}", "{0},{1},{2},train,1"))
    with pytest.raises(UserError, match="seem to hold splits"):
        check(folder / "labels.csv")
    named = PersonTable(folder / "labels.csv", split="split")
    assert check(named).hints[0] == f"unused columns of the table: {heading}"


def test_columns_that_are_not_used_are_named(folder: Path) -> None:
    (folder / "labels.csv").write_text(csv("path,pid,camid,color,width", "{0},{1},{2},red,7"))
    assert check(folder / "labels.csv").hints == ["unused columns of the table: color, width"]


@pytest.mark.parametrize(("head", "what"), [("path,pid,camid", "people"), ("path,camid,pid", "cameras")])
def test_one_number_in_two_spellings_is_refused(folder: Path, head: str, what: str) -> None:
    rows = [(name, "0001" if name == "img/1_1_1.jpg" else pid, camera) for name, pid, camera in ROWS]
    (folder / "labels.csv").write_text(csv(head, rows=rows))
    with pytest.raises(UserError, match=f"two {what}\n.*(0001 and 1|1 and 0001)"):
        check(folder / "labels.csv")


def test_words_and_splits(folder: Path) -> None:
    rows = [
        (name, "anna" if pid == "1" else "eva", "north" if camera == "1" else "south") for name, pid, camera in ROWS
    ]
    lines = [(*row, "Train" if row[1] == "anna" else "query" if row[2] == "north" else "test") for row in rows]
    (folder / "labels.csv").write_text("path,pid,camid,split\n" + "".join(",".join(line) + "\n" for line in lines))
    manifest = PersonTable(folder / "labels.csv").manifest()
    assert manifest.numpy("name").tolist() == [row[1] for row in rows]
    assert manifest.numpy("camera").tolist() == [row[2] for row in rows]
    assert manifest.numpy("split").tolist() == [{"Train": "train", "test": "gallery"}.get(x[3], x[3]) for x in lines]


def test_paths_absolute_above_and_in_an_archive(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").write_text(csv())
    expected = PersonTable(folder / "labels.csv").manifest()
    away = tmp_path / "elsewhere"
    away.mkdir()
    for line in (f"{folder}/{{0}},{{1}},{{2}}", "../set/{0},{1},{2}"):
        (away / "labels.csv").write_text(csv(line=line))
        manifest = PersonTable(away / "labels.csv").manifest()
        assert manifest.root == folder / "img" and manifest.numpy("pid").tolist() == expected.numpy("pid").tolist()
        assert manifest.images.image(manifest.numpy("file_name")[0]).mode == "RGB"
    archive = zip_folder(folder, tmp_path / "set.zip")
    assert detect(archive / "labels.csv").manifest().content_hash == expected.content_hash
    for place in (folder, archive):
        with pytest.raises(UserError, match=rf"did you mean .*{place.name}/labels\.csv"):
            detect(place)


def test_parquet_of_any_columns_is_a_table_and_a_manifest_a_manifest(folder: Path) -> None:
    paths, people, cameras = zip(*ROWS, strict=True)
    columns = {"path": paths, "pid": [float(pid) for pid in people], "camid": [int(camera) for camera in cameras]}
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    table = detect(folder / "labels.parquet")
    assert isinstance(table, PersonTable) and table.manifest().numpy("pid").tolist() == [int(pid) for pid in people]
    written = Manifest.write(table.manifest(), folder / "out.parquet")
    assert isinstance(detect(written), ManifestDataset)
    archive = zip_folder(folder, folder.with_name("set.zip"))
    assert detect(archive / "labels.parquet").manifest().content_hash == table.manifest().content_hash
    assert isinstance(detect(archive / "out.parquet"), ManifestDataset)


@pytest.mark.parametrize("packed", [False, True])
def test_columns_of_parquet_that_are_not_used_are_not_read(
    folder: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, people, _ = zip(*ROWS, strict=True)
    content = [{"bytes": b"jpeg"}] * len(ROWS)
    pq.write_table(pa.table({"image": content, "path": paths, "note": people, "pid": people}), folder / "a.parquet")
    pq.write_table(pa.table({"image": content, "pid": people}), folder / "b.parquet")
    place = zip_folder(folder, folder.with_name("set.zip")) if packed else folder
    read: list[str] = []
    whole = pq.ParquetFile.read

    def note(file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
        read.extend(columns if columns is not None else file.schema_arrow.names)
        return whole(file, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", note)
    table = detect(place / "a.parquet")
    assert len(table.manifest()) == len(ROWS) and set(read) == {"path", "pid"}
    assert "unused columns of the table: image, note" in table.notes
    with pytest.raises(UserError, match=r"'image'.*holds no text"):
        detect(place / "b.parquet").scan()
    assert set(read) == {"path", "pid"}


def test_without_cameras_each_image_is_its_own(folder: Path) -> None:
    (folder / "labels.csv").write_text(csv("path,pid", "{0},{1}"))
    assert check(folder / "labels.csv").cameras_unknown
    (folder / "labels.csv").write_text(csv("path,pid,camid", "{0},{1},"))
    assert check(folder / "labels.csv").cameras_unknown
    assert "camera" not in detect(folder / "labels.csv").manifest().columns


@pytest.mark.parametrize(
    ("text", "message", "mended"),
    [
        (csv().partition("\n")[2], "no headings.*headings path,pid,camid", csv()),
        (csv("file,who,camid"), "no column 'pid'.*rename the column to pid", csv("file,pid,camid")),
        (csv() + "img/no.jpg,1,1\n", "1 of 13 images.*do not exist.*remove these rows", csv()),
        (csv() + "C:\\img\\1_1_1.jpg,1,1\n", "1 of 13 images.*do not exist.*correct the paths", csv()),
        (csv() + "img/1_1_1.jpg,2,1\n", "different people.*keep one row", csv()),
        (csv() + "img/1_1_1.jpg,,1\n", "1 rows .*have no pid.*rows 14.*remove these rows", csv()),
        (csv() + "img/1_1_1.jpg,1\n", "more or fewer values.*rows 14", csv()),
        (csv() + "labels.csv,1,1\n", "cannot be read as images.*remove these rows", csv()),
        (csv("path,pid,pid"), "more than once: *|occur more than once", csv()),
        (csv("path,pid,split"), "unknown splits.*write train", csv("path,pid,split", "{0},{1},train")),
        (csv("path,pid,split", "{0},{1},query"), "only one of them", csv("path,pid,split", "{0},{1},train")),
        ("path,pid\n", "holds no rows.*write one line per image", csv()),
        ("", "no column 'path'", csv()),
        (csv("path,pid", "{0},-1"), "junk only", csv()),
    ],
)
def test_what_is_wrong_is_said_and_the_remedy_works(folder: Path, text: str, message: str, mended: str) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=f"(?s){message}"):
        detect(folder / "labels.csv").manifest()
    (folder / "labels.csv").write_text(mended)
    assert len(detect(folder / "labels.csv").manifest()) == 12


def test_a_table_in_another_encoding(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(csv().encode() + "img/é.jpg,1,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"(?s)cannot be read.*UTF-8"):
        detect(folder / "labels.csv").manifest()
