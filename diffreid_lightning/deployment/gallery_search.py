"""Search for the nearest gallery images of each query, block by block, from files of features."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from diffreid_lightning.deployment.feature_files import FeatureFile, Floats
from diffreid_lightning.errors import UserError, translate_disk_errors
from diffreid_lightning.metrics.functional import rank_list
from diffreid_lightning.paths import make_folder
from diffreid_lightning.reid.rank_lists import choose_queries
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.visualization.grid import RIGHT, WRONG, Cell, GridRow, draw_grid

MATCHES, PICTURE = "matches.csv", "rank_lists.png"
_SHOWN, _SHOWN_RANKS = 8, 10
_CELL = (64, 128)  # width and height in pixels
_HEADING = "nearest gallery images with their cosine similarity; of known people: right green, wrong red"
_FRAMES = {True: RIGHT, False: WRONG}  # of the same and of another person
_QUERY, _GRAY = (60, 60, 60), (128, 128, 128)

Ints = npt.NDArray[np.int64]


def nearest_in_blocks(
    queries: Floats, query_ids: Ints, gallery: Iterator[tuple[int, Floats]], gallery_ids: Ints, top: int
) -> tuple[Ints, Floats]:
    """Find the gallery rows with the highest cosine similarity to each query, without those of its own image.

    Args:
        queries: (Q, D) features.
        query_ids: (Q,) number of the image behind each.
        gallery: blocks of the (G, D) features, each with its first row.
        gallery_ids: (G,) number of the image behind each.
        top: entries to keep, at least 1.

    Returns:
        indices: (Q, top) gallery rows, nearest first, ties by row; -1 where there are fewer.
        similarities: (Q, top) cosines, -1 to 1; NaN where there are fewer.
    """
    indices = np.full((len(queries), top), -1, np.int64)
    similarities = np.full((len(queries), top), np.nan, np.float32)
    wanted, ids = F.normalize(torch.from_numpy(queries)), torch.from_numpy(query_ids)
    for start, block in gallery:
        units = F.normalize(torch.from_numpy(block))
        here = torch.from_numpy(gallery_ids[start : start + len(block)])
        # An image is left out of its own ranking the way that the protocol leaves out its person and camera.
        cameras = torch.zeros_like(ids), torch.zeros_like(here)
        found = rank_list(wanted, units, ids, here, *cameras, top_k=top).indices
        values = torch.stack([(wanted * units[rank]).sum(dim=1) for rank in found.T], dim=1).numpy()
        places = found.numpy()
        indices = np.concatenate([indices, np.where(places < 0, -1, places + start)], axis=1)
        similarities = np.concatenate([similarities, np.where(places < 0, np.nan, values)], axis=1)
        order = np.lexsort((indices, -similarities), axis=1)[:, :top]  # NaN comes last
        indices = np.take_along_axis(indices, order, axis=1)
        similarities = np.take_along_axis(similarities, order, axis=1)
    return indices, similarities


def search(query: FeatureFile, gallery: FeatureFile, folder: Path, top: int = 10) -> None:
    """Write ``matches.csv`` (query, rank, gallery, similarity) and a picture of some rank lists.

    Args:
        query: the images to search for; one that is in the gallery too does not find itself.
        gallery: the images to search in.
        folder: where to write.
        top: ranks of each query, at least 1.

    Raises:
        UserError: the features are of two networks.
        RunError: the disk refuses.
    """
    names = sorted({*query.network, *gallery.network})
    differing = [name for name in names if query.network.get(name) != gallery.network.get(name)]
    if differing:
        raise UserError(
            "The features of query and gallery come from two networks and cannot be compared.",
            looked_for="one record of the network in both files",
            found=f"{query.path} and {gallery.path} differ in {', '.join(differing)}",
            remedy="embed both with one --model",
        )
    numbers: dict[Path, int] = {}
    query_ids, gallery_ids = (_number_images(each, numbers) for each in (query, gallery))
    names, others = (each.rows["file_name"].to_pylist() for each in (query, gallery))
    lists = []
    with translate_disk_errors(f"The matches cannot be written to {folder}", "choose another --out"):
        make_folder(folder)
        with replace_file(folder / MATCHES) as staged, staged.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["query", "rank", "gallery", "similarity"])
            for start, block in query.blocks():
                ids = query_ids[start : start + len(block)]
                lists.append(nearest_in_blocks(block, ids, gallery.blocks(), gallery_ids, min(top, len(others))))
                for row, pairs in enumerate(zip(*lists[-1], strict=True), start):
                    for rank, (index, cosine) in enumerate(zip(*pairs, strict=True), 1):
                        if index >= 0:
                            writer.writerow([names[row], rank, others[index], f"{cosine:.6f}"])
        indices, similarities = (np.concatenate(each) for each in zip(*lists, strict=True))
        draw_matches(query, gallery, indices, similarities).save(folder / PICTURE)


def _number_images(file: FeatureFile, numbers: dict[Path, int]) -> Ints:
    names = file.rows["file_name"].to_pylist()
    return np.asarray([numbers.setdefault(file.images / name, len(numbers)) for name in names], np.int64)


def draw_matches(query: FeatureFile, gallery: FeatureFile, indices: Ints, similarities: Floats) -> Image.Image:
    """Draw rank lists of queries spread evenly over the similarity of their nearest image, the least similar first.

    Args:
        query: the queries.
        gallery: the gallery.
        indices: (Q, top) gallery rows, -1 for none.
        similarities: (Q, top) cosines.
    """
    people, others = _people(query), _people(gallery)
    lines = []
    for row in choose_queries(similarities[:, 0], _SHOWN).tolist():
        cells = []
        for index, cosine in zip(indices[row, :_SHOWN_RANKS].tolist(), similarities[row], strict=False):
            if index >= 0:
                one, other = people[row], others[index]
                comparable = one is not None and other is not None and one[0] == other[0]  # of one source
                frame = _FRAMES[one == other] if comparable else None
                cells.append(Cell(_picture(gallery, index), frame, [f"{cosine:.3f}"]))
        lines.append(GridRow(query.rows["file_name"][row].as_py(), cells, [Cell(_picture(query, row), _QUERY)]))
    return draw_grid(lines, _CELL, ("query", _HEADING))


def _people(file: FeatureFile) -> list[tuple[str, str, int] | None]:
    columns = (file.rows[name].to_pylist() for name in ("source", "partition", "pid"))
    return [None if key[2] is None else key for key in zip(*columns, strict=True)]


def _picture(file: FeatureFile, row: int) -> Image.Image:
    """Return an image; a gray one where it is no longer there."""
    try:
        return file.image_root.image(file.rows["file_name"][row].as_py())
    except UserError:
        return Image.new("RGB", _CELL, _GRAY)
