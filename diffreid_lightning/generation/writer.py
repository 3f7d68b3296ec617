"""Write generated images as JPEG files with Market-1501 names, and their manifest."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from diffreid_lightning.callbacks.manifest_writer import ManifestWriter, stage_datamodule
from diffreid_lightning.diffusion.denoising_loop import not_finite
from diffreid_lightning.errors import RunError, UserError, check_image_size, check_range, check_workers, shorten
from diffreid_lightning.generation.module import GeneratedBatch
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import replace_file

REJECTED = "rejected.parquet"
_REASON, _NOT_FINITE = "reason", "decoded to values that are not finite"


class GeneratedImagesWriter(ManifestWriter):
    """Write generated images and their manifest.

    ``images/<source>/<pid>/0002_c7s1_000003_00.jpg`` is image 3 of identity 2 in Market-1501's pattern. The camera
    number is one above the largest of the source's images that were read; where these are a part of a dataset, another
    part may have a real camera of that number, which training tells apart by the split. Identities outside the train
    partition are written to ``images/<source>-<partition>/``.

    An image with non-finite decoded values is not written; its row goes to ``rejected.parquet`` with the reason, not to
    the manifest.

    Images are encoded while the next ones are generated. A batch is done when all its images are on disk; otherwise the
    next run generates it again, with the same names. Each process stores its own batches, and rank zero writes the
    manifest at the end.

    Args:
        folder: output folder of images and manifest.
        quality: of the JPEG files, 1 to 100.
        threads: encoder threads; 0 encodes between batches.
        waiting: batches that may wait in memory to be encoded.
        stored_size: height and width of the files in pixels, antialiased; None keeps the size of decoding.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        folder: str,
        quality: int = 95,
        threads: int = 2,
        waiting: int = 2,
        stored_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(folder)
        check_range("GeneratedImagesWriter.quality", quality, 1, 100)
        check_workers("GeneratedImagesWriter.threads", threads)
        check_range("GeneratedImagesWriter.waiting", waiting, 0, 1000)
        if stored_size is not None:
            check_image_size("GeneratedImagesWriter.stored_size", stored_size)
        self.quality = quality
        self.threads = threads
        self.waiting = waiting if threads else 0
        self.stored_size = stored_size
        self._pool: ThreadPoolExecutor | None = None
        self._queue: deque[tuple[int, pa.Table, list[Future[None]]]] = deque()
        self._camids: dict[str, int] = {}

    @property
    def cache_key(self) -> dict[str, Any]:
        """JPEG quality and size of the files."""
        size = {} if self.stored_size is None else {"stored_size": list(self.stored_size)}
        return {"jpeg_quality": self.quality, **size}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resume an earlier run, and choose the camera numbers.

        Raises:
            UserError: images of different sources would share a folder, or files would be larger than the images.
        """
        if stage == "predict":
            _refuse_shared_folders(stage_datamodule(trainer).manifest.table)
            _refuse_enlarging(self.stored_size, pl_module)
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        largest = stage_datamodule(trainer).manifest.table.group_by("source").aggregate([("camid", "max")])
        self._camids = {row["source"]: row["camid_max"] + 1 for row in largest.to_pylist()}
        self._pool = ThreadPoolExecutor(max(1, self.threads), "jpeg")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: GeneratedBatch,  # type: ignore[override]
        *args: Any,
    ) -> None:
        """Queue a batch for encoding, and store the batches whose images are written.

        Raises:
            RunError: an image cannot be written; earlier batches are stored.
        """
        rows = self._add_columns(prediction.rows)
        drawn = prediction.finite.tolist()
        rows = rows.append_column(_REASON, pa.array([None if each else _NOT_FINITE for each in drawn], pa.string()))
        pixels = prediction.images.permute(0, 2, 3, 1).numpy()
        assert self._pool is not None
        jobs = [
            self._pool.submit(_save, self.folder / name, image, self.quality, self.stored_size)
            for name, image, is_drawn in zip(rows["file_name"].to_pylist(), pixels, drawn, strict=True)
            if is_drawn
        ]
        self._queue.append((prediction.number, rows, jobs))
        while self._queue and (len(self._queue) > self.waiting or all(job.done() for job in self._queue[0][2])):
            self._keep_first()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the remaining batches, then write the manifest."""
        while self._queue:
            self._keep_first()
        self._close()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Store the generated batches, as far as they can be written."""
        while self._queue:
            with contextlib.suppress(RunError):  # one that cannot be written does not cost the later ones
                self._keep_first()
        self._close()
        super().on_exception(trainer, pl_module, exception)

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Build the manifest of the generated images; rows of images that are not finite go to a file beside it.

        Raises:
            RunError: no image is finite.
        """
        drawn = pc.is_null(rows[_REASON])
        rejected = rows.filter(pc.invert(drawn))
        rows = rows.filter(drawn).drop_columns([_REASON])
        if not len(rows):
            raise not_finite(len(rejected), len(rejected))
        if len(rejected):
            noted = Manifest(rejected, self.folder, (read.content_hash,)).with_columns({"kept": False})
            path = noted.write(self.folder / REJECTED)
            rank_zero_info(f"{len(rejected)} images were not drawn ({_NOT_FINITE}); their rows: {path}")
        return Manifest(rows, self.folder, (read.content_hash,))

    def _add_columns(self, rows: pa.Table) -> pa.Table:
        """Add the file names and the columns of generated images."""
        names, camids = [], []
        for row in rows.select(["source", "partition", "pid", "number"]).to_pylist():
            camid = self._camids[row["source"]]
            folder = _folder_of(row["source"], row["partition"])
            names.append(f"images/{folder}/{row['pid']:04d}/{row['pid']:04d}_c{camid}s1_{row['number']:06d}_00.jpg")
            camids.append(camid)
        return (
            rows.drop_columns(["number"])
            .append_column("file_name", pa.array(names, pa.string()))
            .append_column("camid", pa.array(camids, pa.int64()))
            .append_column("source_pid", pc.cast(rows["pid"], pa.int64()))
            .append_column("split", pa.repeat(pa.scalar("generated"), len(rows)))
            .append_column("role", pa.repeat(pa.scalar("identity"), len(rows)))
        )

    def _keep_first(self) -> None:
        number, rows, jobs = self._queue.popleft()
        try:
            for job in jobs:
                job.result()
        except OSError as error:
            raise RunError(
                f"A generated image cannot be written: {error.filename or self.folder}",
                found=error.strerror or str(error),
                remedy="free disk space and run the same command again; earlier batches are stored",
            ) from error
        self.parts.put(number, rows)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._queue.clear()


def _folder_of(source: str, partition: str) -> str:
    group = source if partition == "train" else f"{source}-{partition}"
    return re.sub(r"[^\w.-]+|^\.+", "-", group)


def _refuse_shared_folders(table: pa.Table) -> None:
    """Refuse sources whose images would get the same names."""
    sharing: dict[str, list[str]] = {}
    for row in table.group_by(["source", "partition"]).aggregate([]).to_pylist():
        sharing.setdefault(_folder_of(**row), []).append(f"{row['source']!r} ({row['partition']})")
    clashes = [f"{' and '.join(sorted(groups))} in images/{folder}" for folder, groups in sharing.items() if groups[1:]]
    if clashes:
        raise UserError(
            "Images of different sources would share a folder.",
            found=shorten(clashes),
            remedy="name the sources apart by more than spaces and punctuation",
        )


def _refuse_enlarging(stored: tuple[int, int] | None, module: LightningModule) -> None:
    decoded = getattr(module, "image_size", None)
    if (
        stored is not None
        and decoded is not None
        and any(file > own for file, own in zip(stored, decoded, strict=True))
    ):
        raise UserError(
            "Images cannot be stored larger than they are generated.",
            looked_for=f"a stored_size of at most data.image_size, {list(decoded)}",
            found=str(list(stored)),
            remedy="lower GeneratedImagesWriter.stored_size, or raise data.image_size",
        )


def _save(path: Path, pixels: Any, quality: int, size: tuple[int, int] | None) -> None:
    """Write one image atomically.

    Args:
        path: output file.
        pixels: (H, W, 3) uint8.
        quality: of the JPEG.
        size: height and width of the file; None keeps those of the pixels.
    """
    image = Image.fromarray(pixels)
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as staged:
        image.save(staged, "JPEG", quality=quality)
