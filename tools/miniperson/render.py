"""Render a corpus of people: ``python -m tools.miniperson.render --domain campus --out DIR``.

The work is cut by person. A finished person leaves a small record behind; a killed run goes on with the people that
have none, and ends with the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from diffreid_lightning.errors import DiffReIDError, RunError, UserError, check_range, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import replace_file
from tools.miniperson import corpus as plan
from tools.miniperson.body import require_body_model
from tools.miniperson.compose import Studio
from tools.miniperson.corpus import Corpus, Person, Picture
from tools.miniperson.describe import attributes, describe
from tools.miniperson.imaging import develop, jpeg
from tools.miniperson.shots import Shot, draw_shot

_RECORDS = ".records"
_LEAST_VISIBLE = 0.5


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "")


def render_picture(studio: Studio, corpus: Corpus, person: Person, picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """Render one picture.

    Args:
        studio: draws the shots; its size is the picture's.
        corpus: what the picture belongs to.
        person: whom it shows.
        picture: which picture.

    Returns:
        The JPEG file's bytes and the columns that belong to this picture.
    """
    rng = plan.picture_rng(corpus, person.index, picture.number)
    viewpoint = next(view for view in corpus.viewpoints if view.camid == picture.camid)
    passers_by = list(plan.extras(corpus))
    # A person hidden by more than half is no use as a picture of that person: draw another moment.
    for _ in range(12):
        shot = draw_shot(rng, viewpoint, person.look, corpus.clips, passers_by, corpus.crowd)
        shot = _framed(shot, picture.framing, rng)
        drawn = studio.draw(shot)
        if drawn.visible >= _LEAST_VISIBLE or picture.framing != "good":
            break
    pixels = develop(drawn.light, viewpoint.sensor, rng, motion=shot.motion)
    columns = {
        "view": shot.view,
        "pose": shot.clip.name,
        "scene": viewpoint.place.name,
        "light": viewpoint.light_name,
        "occluded": bool(drawn.visible < 0.85),
        "visible": round(drawn.visible, 3),
    }
    if viewpoint.place.setting:
        columns["setting"] = viewpoint.place.setting
    return jpeg(pixels, shot.quality), columns


def _framed(shot: Shot, framing: str, rng: Any) -> Shot:
    """Spoil the box of a distractor or of junk."""
    if framing == "bad":
        side = float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.45))
        return replace(shot, shift=(side, float(rng.uniform(-0.2, 0.2))))
    if framing == "junk":
        top = float(rng.uniform(-0.6, 0.3))
        return replace(
            shot,
            margin=(top, float(-0.55 - top if top > -0.3 else 0.1), 0.3),
            shift=(float(rng.uniform(-0.5, 0.5)), 0.0),
        )
    return shot


def render(
    corpus: Corpus,
    out: Path,
    *,
    people: list[Person] | None = None,
    workers: int = 2,
    height: int = 128,
    width: int = 64,
) -> Manifest:
    """Render a corpus into a folder in Market's layout, with its manifest.

    Args:
        corpus: what to render.
        out: the folder; pictures already there from a killed run are kept.
        people: whom to render, as :func:`~tools.miniperson.corpus.retaken` gives them; None for
            everyone in the corpus.
        workers: processes.
        height: rows of a picture.
        width: columns of a picture.

    Returns:
        The manifest, also written to ``out``; junk has no row.

    Raises:
        UserError: the body model is not installed, or ``out`` holds something else or part of another corpus.
        RunError: a file cannot be written.
    """
    require_body_model()
    everyone = plan.people(corpus) if people is None else people
    out = out.resolve()
    _open_folder(out, everyone, _fingerprint(corpus, everyone, (height, width)))
    left = [person for person in everyone if not _record(out, person).exists()]
    total = sum(len(person.pictures) for person in left)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(corpus.name, total=total)
        for count in _work(corpus, left, out, workers, (height, width)):
            progress.advance(bar, count)
    rows = [row for person in everyone for row in json.loads(_record(out, person).read_text(encoding="utf-8"))]
    rows = sorted((row for row in rows if row["pid"] >= 0), key=lambda row: row["file_name"])
    manifest = Manifest.from_columns(out, {name: [row[name] for row in rows] for name in rows[0]})
    manifest.write(out)
    return manifest


def _fingerprint(corpus: Corpus, everyone: list[Person], size: tuple[int, int]) -> str:
    """A hash of all that decides the files, the same in every process."""
    # Sets and functions print differently from run to run; whom a corpus avoids shows in the people themselves.
    clips = [(clip.name, clip.words, clip.share, clip.moving) for clip in corpus.clips]
    decisive = (corpus.name, corpus.seed, corpus.viewpoints, clips, corpus.captions, everyone, size)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _open_folder(out: Path, everyone: list[Person], fingerprint: str) -> None:
    """Make the folders, and see that what lies there belongs to the same corpus."""
    mark = out / _RECORDS / "corpus"
    begun = mark.read_text(encoding="utf-8") if mark.exists() else None
    others = sorted(path.name for path in out.iterdir() if path.name != _RECORDS) if out.is_dir() else []
    if (others and begun is None) or begun not in (None, fingerprint):
        raise UserError(
            f"The folder holds {'something else' if begun is None else 'another corpus'}: {out}",
            looked_for="an empty folder, or one in which rendering this corpus in this size was begun",
            found=shorten(others) or None,
            remedy="give another folder, or remove this one",
        )
    folders = {picture.file_name.partition("/")[0] for person in everyone for picture in person.pictures}
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        _write(mark, fingerprint.encode())  # first: by it a killed run's folder is known again
        for folder in sorted(folders):
            (out / folder).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder cannot be made: {out}", found=str(error), remedy="choose a folder that can be written to"
        ) from error


def _record(out: Path, person: Person) -> Path:
    return out / _RECORDS / f"{person.index:06d}.json"


def _work(corpus: Corpus, left: list[Person], out: Path, workers: int, size: tuple[int, int]) -> Iterator[int]:
    if workers <= 1:
        studio = Studio(*size, shelf=out / _RECORDS)
        yield from (_render_person(studio, corpus, person, out) for person in left)
        return
    # Each worker fills one core; threads inside them would only get into each other's way.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (corpus, out, size)) as pool:
        pool.map(_prepare_in_worker, range(len(corpus.viewpoints)), chunksize=1)
        yield from pool.imap_unordered(_render_in_worker, left)


_worker: tuple[Studio, Corpus, Path] | None = None


def _start_worker(corpus: Corpus, out: Path, size: tuple[int, int]) -> None:
    global _worker
    _worker = Studio(*size, shelf=out / _RECORDS), corpus, out


def _prepare_in_worker(camera: int) -> None:
    assert _worker is not None
    studio, corpus, _ = _worker
    studio.backdrop(corpus.viewpoints[camera])


def _render_in_worker(person: Person) -> int:
    assert _worker is not None
    studio, corpus, out = _worker
    return _render_person(studio, corpus, person, out)


def _render_person(studio: Studio, corpus: Corpus, person: Person, out: Path) -> int:
    rows = []
    for picture in person.pictures:
        data, columns = render_picture(studio, corpus, person, picture)
        doing = next(clip.words for clip in corpus.clips if clip.name == columns["pose"])
        _write(out / picture.file_name, data)
        rows.append(
            {
                "file_name": picture.file_name,
                "source": f"miniperson_{corpus.name}",
                "partition": "train" if picture.split in ("train", "val") else "test",
                "pid": picture.pid,
                "camid": picture.camid,
                "split": picture.split,
                "role": "identity" if picture.pid > 0 else "distractor",
                "caption": _caption(person, doing, columns) if corpus.captions else None,
                **attributes(person.look),
                **columns,
            }
        )
    _write(_record(out, person), json.dumps(rows).encode())
    return len(rows)


def _caption(person: Person, doing: str, columns: dict[str, Any]) -> str:
    return describe(person.look, columns["view"], doing, columns.get("setting", ""), columns["light"])


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    try:
        with replace_file(path) as staged:
            staged.write_bytes(data)
    except OSError as error:
        raise RunError(
            f"A file cannot be written: {path}", found=str(error), remedy="free disk space and run it again"
        ) from error


def pack(folder: Path, archive: Path) -> None:
    """Put a rendered folder into one uncompressed zip; equal folders give equal bytes.

    Args:
        folder: what :func:`render` wrote.
        archive: the file to write.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.jpg"))
    with replace_file(archive) as staged, zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED) as target:
        for name in ["metadata.parquet", *names]:
            target.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())


def main(args: list[str] | None = None) -> int:
    """Render a corpus from the command line."""
    parser = argparse.ArgumentParser(description="Render a domain of MiniPerson, or a world of other people.")
    parser.add_argument("--domain", choices=["campus", "station", "world"], required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to render into; a killed run is continued")
    parser.add_argument("--identities", type=int, default=None, help="about so many people instead of all")
    parser.add_argument(
        "--retake", type=int, default=None, metavar="N", help="N new pictures of each training person instead"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--height", type=int, default=128, help="rows of a picture; it is half as wide")
    parser.add_argument("--zip", type=Path, default=None, help="also pack the folder into this archive")
    given = parser.parse_args(args)
    try:
        check_range("--retake", given.retake, 1)
        check_range("--identities", given.identities, 1)
        if given.domain == "world":
            corpus = plan.world() if given.identities is None else plan.world(given.identities)
        else:
            corpus = plan.domain(given.domain, given.identities)
        people = None if given.retake is None else plan.retaken(corpus, given.retake)
        size = {"height": given.height, "width": given.height // 2}
        manifest = render(corpus, given.out, people=people, workers=given.workers, **size)
        if given.zip is not None:
            pack(given.out, given.zip)
    except DiffReIDError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{manifest.table.num_rows} images in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
