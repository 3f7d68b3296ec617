"""The browser's files: every row in them, columns whose numbers sort as their values, links that lead to the images."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest

from diffreid_lightning.cli import main
from diffreid_lightning.errors import UserError
from diffreid_lightning.report.dataset_browser import encode_column, open_parts, write_browser
from tests.unit.report.conftest import HOSTILE, REASON, make_manifest
from tests.unit.report.test_page import check_page

ODD = "a b#?%é'\".jpg"


def read_script(file: Path) -> Any:
    text = file.read_text(encoding="ascii").removeprefix("receive(").removesuffix(");\n")
    name, note = json.loads(f"[{text}]")
    assert file.as_posix().endswith(f"{name}.js")
    return note


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return all rows, with the links of their images."""
    names = [column["name"] for column in read_script(folder / "index.js")["columns"]]
    rows = []
    for number in range(len(list((folder / "rows").iterdir()))):
        note = read_script(folder / "rows" / f"{number}.js")
        columns = [
            each if isinstance(each, list) else [each["values"][n] for n in each["rows"]] for each in note["columns"]
        ]
        rows += [dict(zip(("link", *names), row, strict=True)) for row in zip(note["images"], *columns, strict=True)]
    return rows


def unpack(note: dict[str, Any]) -> np.ndarray:
    kind = {"Int32": "<i4", "Float32": "<f4", "Float64": "<f8"}[note["type"]]
    return np.frombuffer(base64.b64decode(note["data"]), kind)


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, 2],
        [2**40, -5],
        [True, False],
        [0.5, 0.25, -1.0],
        ["b", "ä", "", "b", "a"],
        ["x" * 600_000, "y" * 600_000],
    ],
    ids=lambda values: str(values[0])[:8],
)
def test_numbers_of_a_column_sort_as_its_values(values: list[Any]) -> None:
    kind, note = encode_column(pa.chunked_array([values[:1], values[1:]]))
    keys = unpack(note)
    assert [[a < b for b in keys] for a in keys] == [[a < b for b in values] for a in values]
    assert kind == ("text" if isinstance(values[0], (str, bool)) else "number")
    if isinstance(values[0], str) and note["values"] is not None:
        assert [note["values"][key] for key in keys] == values
    assert (note.get("values", "") is None) == (len(str(values)) > 1_000_000)


def test_nulls_have_keys_of_their_own() -> None:
    assert np.isnan(unpack(encode_column(pa.chunked_array([[1, None]]))[1])).tolist() == [False, True]
    assert unpack(encode_column(pa.chunked_array([[None, "a"]]))[1]).tolist() == [-1, 0]


def test_every_row_is_written_in_the_order_of_identities(tmp_path: Path) -> None:
    count = 1203
    names = [f"images/{number}.jpg" for number in range(count)]
    rng = np.random.default_rng(0)
    pids = rng.integers(0, 40, count)
    seeds = rng.integers(0, 2**62, count)
    columns = {
        "pid": pids,
        "seed": seeds,
        "confidence": rng.random(count),
        "caption": [f"no. {n}" for n in range(count)],
    }
    manifest = make_manifest(tmp_path / "data", names[:2], **{name: list(each[:2]) for name, each in columns.items()})
    everything = manifest.from_columns(
        tmp_path / "data",
        {name: manifest.table[name][0].as_py() for name in manifest.columns} | {"file_name": names} | columns,
    )
    ticks: list[tuple[int, int]] = []
    assert write_browser([everything], tmp_path / "out", "title", lambda *both: ticks.append(both)) == 0
    rows = read_rows(tmp_path / "out")
    assert ticks == [(500, count), (1000, count), (count, count)]
    expected = sorted(range(count), key=lambda row: (pids[row], names[row]))
    assert [row["file_name"] for row in rows] == [names[row] for row in expected]
    assert [row["confidence"] for row in rows] == [columns["confidence"][row] for row in expected]
    assert [int(row["seed"]) for row in rows] == seeds[expected].tolist(), "beyond the exact numbers of JavaScript"


def test_kept_and_rejected_images_are_shown_with_links_that_lead_to_them(chain: Path, tmp_path: Path) -> None:
    make_manifest(chain / "select" / "diff_person", [ODD], confidence=[0.9], kept=True, reason="kept")
    out = tmp_path / "pages" / "browser"
    assert main(["data", "browse", str(chain / "select"), "--out", str(out)]) == 0
    rows = read_rows(out)
    assert {row["file_name"]: (row["kept"], row["reason"]) for row in rows} == {
        ODD: (True, "kept"),
        "c.jpg": (False, REASON),
    }
    for row in rows:
        assert (
            "//" not in row["link"] and not set(row["link"]) & set(" #?'\"") and (out / unquote(row["link"])).is_file()
        )
    html = (out / "index.html").read_text(encoding="utf-8")
    check_page(html.replace("<script>", "").replace("</main>", "<h2></h2></main>"))
    assert "innerHTML" not in html and HOSTILE not in html and "fetch(" not in html


def test_images_in_an_archive_get_thumbnails(tmp_path: Path) -> None:
    make_manifest(tmp_path / "data", ["a.jpg", "b.png", "c.jpg"])
    (tmp_path / "data" / "c.jpg").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in sorted((tmp_path / "data").iterdir()):
            archive.write(file, file.name)
    assert write_browser(open_parts(str(tmp_path / "data.zip")), tmp_path / "out", "title", lambda *_: None) == 2
    links = [row["link"] for row in read_rows(tmp_path / "out")]
    assert links[2] is None and all((tmp_path / "out" / link).is_file() for link in links[:2])


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "data", ["a.jpg"])
    with pytest.raises(UserError, match="holds something else"):
        write_browser([manifest], tmp_path / "data", "title", lambda *_: None)
    write_browser([manifest], tmp_path / "out", "title", lambda *_: None)
    write_browser([manifest], tmp_path / "out", "title", lambda *_: None)
    assert len(read_rows(tmp_path / "out")) == 1
