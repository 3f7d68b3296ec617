"""Search for the nearest gallery images of each query, block by block, from files of features."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diffreid_lightning.deployment.feature_files import FeatureFile, Floats
from diffreid_lightning.errors import RunError, UserError, check_at_least
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.metrics.functional import rank_list
from diffreid_lightning.reid.rank_lists import choose_queries
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.visualization.grid import Cell, GridRow, draw_grid

MATCHES, PICTURE = "matches.csv", "rank_lists.png"
_SHOWN, _SHOWN_RANKS = 8, 10
_CELL = (64, 128)  # width and height in pixels
_FRAMES = {True: (34, 160, 70), False: (214, 50, 48)}  # of the same and of another person
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
    wanted, ids = _unit(queries), torch.from_numpy(query_ids)
    for start, block in gallery:
        here = torch.from_numpy(np.ascontiguousarray(gallery_ids[start : start + len(block)]))
        # An image is left out of its own ranking the way that the protocol leaves out its person and camera.
        found = rank_list(
            torch.from_numpy(queries),
            torch.from_numpy(np.ascontiguousarray(block)),
            ids,
            here,
            torch.zeros_like(ids),
            torch.zeros_like(here),
            top_k=top,
        ).indices.numpy()
        units = _unit(block)
        values = np.stack([np.einsum("qd,qd->q", wanted, units[rank]) for rank in found.T], axis=1)
        indices = np.concatenate([indices, np.where(found < 0, -1, found + start)], axis=1)
        similarities = np.concatenate([similarities, np.where(found < 0, np.nan, values)], axis=1)
        order = np.lexsort((indices, -similarities), axis=1)[:, :top]  # NaN comes last
        indices = np.take_along_axis(indices, order, axis=1)
        similarities = np.take_along_axis(similarities, order, axis=1)
    return indices, similarities


def _unit(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)


def search(query: FeatureFile, gallery: FeatureFile, folder: Path, top: int = 10) -> int:
    """Write ``matches.csv`` (query, rank, gallery, similarity) and a picture of some rank lists.

    Args:
        query: the images to search for; an image that is in both files is not found by itself.
        gallery: the images to search in.
        folder: where to write.
        top: ranks of each query, at least 1.

    Returns:
        The number of queries.

    Raises:
        UserError: the features are of two networks.
        RunError: the disk refuses.
    """
    check_at_least("--top", top)
    if query.network["weights"] != gallery.network["weights"]:
        raise UserError(
            "The features of query and gallery come from two networks and cannot be compared.",
            found=", ".join(
                f"{file.path}: {file.network.get('architecture')} {file.network['weights'][:8]}"
                for file in (query, gallery)
            ),
            remedy="embed both with one --model",
        )
    numbers: dict[Path, int] = {}
    query_ids, gallery_ids = (_number_images(file, numbers) for file in (query, gallery))
    names, others = (file.rows["file_name"].to_pylist() for file in (query, gallery))
    all_indices, all_similarities = [], []
    top = min(top, len(others))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / MATCHES) as staged, staged.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["query", "rank", "gallery", "similarity"])
            for start, block in query.blocks():
                ids = query_ids[start : start + len(block)]
                indices, values = nearest_in_blocks(block, ids, gallery.blocks(), gallery_ids, top)
                for row, (found, cosines) in enumerate(zip(indices.tolist(), values.tolist(), strict=True), start):
                    pairs = zip(found, cosines, strict=True)
                    writer.writerows(
                        [names[row], rank, others[index], f"{cosine:.6f}"]
                        for rank, (index, cosine) in enumerate(pairs, 1)
                        if index >= 0
                    )
                all_indices.append(indices)
                all_similarities.append(values)
        sheet = draw_matches(query, gallery, np.concatenate(all_indices), np.concatenate(all_similarities))
        sheet.save(folder / PICTURE)
    except OSError as error:
        raise RunError(
            f"The matches cannot be written to {folder}", found=str(error), remedy="choose another --out"
        ) from error
    return len(names)


def _number_images(file: FeatureFile, numbers: dict[Path, int]) -> Ints:
    names = file.rows["file_name"].to_pylist()
    return np.asarray([numbers.setdefault(file.images / name, len(numbers)) for name in names], np.int64)


def draw_matches(query: FeatureFile, gallery: FeatureFile, indices: Ints, similarities: Floats) -> Image.Image:
    """Draw rank lists of queries spread evenly over the similarity of their nearest image, the least similar first.

    Where the people of both are known, the same person is framed green and others red.

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
        for index, cosine in zip(indices[row, :_SHOWN_RANKS], similarities[row], strict=False):
            if index >= 0:
                known = people[row] is not None and others[index] is not None
                frame = _FRAMES[people[row] == others[index]] if known else None
                cells.append(Cell(_picture(gallery, int(index)), frame, [f"{cosine:.3f}"]))
        title = query.rows["file_name"][row].as_py()
        lines.append(GridRow(title, cells, [Cell(_picture(query, row), _QUERY)]))
    heading = "nearest gallery images with their cosine similarity; of known people: right green, wrong red"
    return draw_grid(lines, _CELL, ("query", heading))


def _people(file: FeatureFile) -> list[tuple[str, str, int] | None]:
    columns = (file.rows[name].to_pylist() for name in ("source", "partition", "pid"))
    return [None if key[2] is None else key for key in zip(*columns, strict=True)]


def _picture(file: FeatureFile, row: int) -> Image.Image:
    """Return an image; a gray one where it is no longer there."""
    try:
        return ImageRoot(file.images).image(file.rows["file_name"][row].as_py())
    except UserError:
        return Image.new("RGB", _CELL, _GRAY)
