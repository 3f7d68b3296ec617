"""Write a folder of static pages to look through the images of a dataset, without a server.

The page reads scripts, since a page opened from a file may not read data: ``rows/N.js`` holds the columns of 500 images
in the order of their identities, ``columns/N.js`` one column of all images as numbers to sort and filter by. So the
page never holds the texts of more than some of the rows.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import absolute_path
from diffreid_lightning.report.blocks import environment
from diffreid_lightning.report.selection_section import DATASET, REJECTED, is_selection
from diffreid_lightning.storage.atomic import refuse_foreign, replace_folder

INDEX = "index.js"
_FOLDERS = ("rows", "columns", "thumbnails")
_ROWS = 500  # in a file
_ORDER = ("source", "partition", "pid", "camid", "file_name")
_SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_HEIGHT = 128  # of a thumbnail in pixels
_LONGEST = 1000  # characters of a text
_LARGEST_TEXTS = 1_000_000  # bytes of the distinct texts of a column; with more, the page searches the rows instead
_EXACT = 2**53  # the largest integer of JavaScript

Progress = Callable[[int, int], None]


def open_parts(path: str) -> list[Manifest]:
    """Open a dataset, or both parts of a selection: kept and rejected images.

    Raises:
        UserError: it cannot be read.
    """
    folder = absolute_path(path)
    if is_selection(folder):
        return [Manifest.read(folder / DATASET), Manifest.read(folder / REJECTED)]
    return [open_dataset(path).manifest()]


def write_browser(parts: Sequence[Manifest], out: Path, title: str, on_progress: Progress) -> int:
    """Write the pages; images in a folder are linked, those that a browser cannot open get thumbnails.

    Args:
        parts: manifests whose rows are shown together.
        out: the folder; an earlier browser there is replaced.
        title: title of the page.
        on_progress: called with the number of images written and of all.

    Returns:
        The number of thumbnails.

    Raises:
        UserError: ``out`` holds something else, or the images are not on this machine.
        OSError: the disk refuses.
    """
    marks = ["index.html", INDEX]
    refuse_foreign(out, marks, "a browser of images", "give another folder with --out", (*marks, *_FOLDERS))
    out = absolute_path(out)
    table = pa.concat_tables([part.table for part in parts], promote_options="default")
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in _ORDER])
    table, owners = table.take(order), owners[np.asarray(order)]
    roots = [part.images for part in parts]
    bases = [_link(root.path, out) for root in roots]
    thumbnails = 0
    with replace_folder(out) as folder, ThreadPoolExecutor() as pool:
        run: Callable[..., Iterable[str | None]] = pool.map if any(root.in_archive for root in roots) else map
        (folder / "rows").mkdir()
        (folder / "columns").mkdir()
        for start in range(0, len(table), _ROWS):
            rows = table.slice(start, _ROWS)
            own = owners[start : start + _ROWS].tolist()
            places = [roots[owner] for owner in own], [bases[owner] for owner in own]
            numbers = range(start, start + len(rows))
            images = list(run(_image, *places, rows["file_name"].to_pylist(), numbers, itertools.repeat(folder)))
            thumbnails += sum(str(image).startswith("thumbnails/") for image in images)
            note = {"images": images, "columns": [_shorten(rows[name]) for name in rows.column_names]}
            _write_script(folder / "rows" / f"{start // _ROWS}.js", f"rows/{start // _ROWS}", note)
            on_progress(min(start + _ROWS, len(table)), len(table))
        kinds = []
        for number, name in enumerate(table.column_names):
            kind, note = encode_column(table[name])
            kinds.append({"name": name, "kind": kind})
            _write_script(folder / "columns" / f"{number}.js", f"columns/{number}", note)
        index = {"rows": len(table), "perFile": _ROWS, "columns": kinds}
        _write_script(folder / INDEX, "index", index)
        page = environment().get_template("browser.html").render(title=title)
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace")
    return thumbnails


def encode_column(column: pa.ChunkedArray) -> tuple[str, dict[str, Any]]:
    """Encode a column as numbers whose order is that of its values.

    Args:
        column: N values.

    Returns:
        kind: ``number`` or ``text``.
        note: ``type`` (``Int32``, ``Float32`` or ``Float64``) and ``data`` (base64, little-endian) of N numbers; for a
            text the rank of each value among the distinct ones, -1 for null, and these as ``values`` (null if they take
            more than 1 MB). A null number is NaN.
    """
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        numbers = np.asarray(column.cast(pa.float64(), safe=False))
        small = pa.types.is_integer(kind) and bool((np.abs(numbers) < 2**31).all())  # false where one is NaN
        return "number", _pack(numbers, "Float32" if pa.types.is_floating(kind) else "Int32" if small else "Float64")
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        texts = column.cast(pa.string())
    else:
        texts = pa.chunked_array([[None if each is None else str(each) for each in column.to_pylist()]], pa.string())
    encoded = texts.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary
    order = np.asarray(pc.sort_indices(distinct))
    ranks = np.full(len(distinct) + 1, -1)
    ranks[order] = np.arange(len(distinct))
    codes = ranks[np.asarray(pc.fill_null(encoded.indices, len(distinct)))]
    size = pc.sum(pc.binary_length(distinct)).as_py() or 0
    shown = [each[:_LONGEST] for each in distinct.take(order).to_pylist()] if size <= _LARGEST_TEXTS else None
    return "text", {**_pack(codes, "Int32"), "values": shown}


def _pack(values: npt.NDArray[Any], name: str) -> dict[str, Any]:
    packed = values.astype({"Int32": "<i4", "Float32": "<f4", "Float64": "<f8"}[name])
    return {"type": name, "data": base64.b64encode(packed.tobytes()).decode("ascii")}


def _shorten(column: pa.ChunkedArray) -> Any:
    """Return the values of some rows as JSON; as distinct ones and their numbers where many are equal."""
    values = [_plain(value) for value in column.to_pylist()]
    distinct = {value: number for number, value in enumerate(dict.fromkeys(values))}
    if len(distinct) > len(values) // 2:
        return values
    return {"values": list(distinct), "rows": [distinct[value] for value in values]}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < _EXACT):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return str(value)[:_LONGEST]


def _image(root: ImageRoot, base: str, name: str, row: int, folder: Path) -> str | None:
    """Return the link of an image, after writing its thumbnail if it needs one; None if it cannot be read."""
    if not root.in_archive and name.lower().endswith(_SHOWN_BY_BROWSERS):
        return base + quote(name)
    image, _ = root.image_or_reason(name)
    if image is None:
        return None
    link = f"thumbnails/{row // _ROWS}/{row}.jpg"
    file = folder / link
    file.parent.mkdir(parents=True, exist_ok=True)
    width = max(1, round(image.width * _HEIGHT / image.height))
    image.resize((width, _HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return link


def _link(root: Path, out: Path) -> str:
    """Return the address of an image root, relative to the pages where the system has a way from there."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(root, out)).as_posix())) + "/"
    except ValueError:  # two drives
        return root.as_uri() + "/"


def _write_script(file: Path, name: str, note: Any) -> None:
    """Write a script that hands its data to the page."""
    text = json.dumps(note, separators=(",", ":"))
    file.write_text(f"receive({json.dumps(name)},{text});\n", encoding="ascii")
