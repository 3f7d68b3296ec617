"""Contact sheet of a generated set: one row per identity, real images left, generated ones right."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.callbacks.manifest_writer import stage_datamodule
from diffreid_lightning.datasets.identities import identity_name
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.generation.writer import GeneratedImagesWriter
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.training.trainer_parts import callbacks_of
from diffreid_lightning.visualization.grid import Cell, GridRow, cell_size, draw_grid, spread

_HEADINGS = ("real", "generated, and what was asked for")


class ContactSheet(Callback):
    """Draw some identities of a generated set beside their real images, as ``contact_sheet.png`` in its folder.

    Needs a :class:`~.writer.GeneratedImagesWriter` before it; draws when generation has ended.

    Args:
        identities: number of rows, evenly spread over the identities.
        real: real images of each, of different cameras if possible.
        generated: generated images of each, the first ones.
        height: of the images in pixels.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, identities: int = 8, real: int = 3, generated: int = 8, height: int = 192) -> None:
        check_range("ContactSheet.identities", identities, 1, 1000)
        check_range("ContactSheet.real", real, 0, 1000)
        check_range("ContactSheet.generated", generated, 1, 1000)
        check_range("ContactSheet.height", height, 1, 2048)
        self.identities = identities
        self.real = real
        self.generated = generated
        self.height = height
        self._writer: GeneratedImagesWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the writer, which must have finished when the sheet is drawn.

        Raises:
            UserError: there is none before this callback.
        """
        callbacks: list[Callback] = callbacks_of(trainer)
        before = callbacks[: callbacks.index(self)]
        self._writer = next((each for each in before if isinstance(each, GeneratedImagesWriter)), None)
        if stage == "predict" and self._writer is None:
            raise UserError(
                "There are no images for a contact sheet.",
                looked_for="GeneratedImagesWriter before ContactSheet in trainer.callbacks",
                remedy="put it there, or drop ContactSheet",
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the sheet on rank zero, if the set is complete."""
        writer = self._writer
        if stage != "predict" or writer is None or not trainer.is_global_zero or not writer.parts.finished:
            return
        rows = self.rows(stage_datamodule(trainer).manifest, Manifest.read(writer.folder / FILE_NAME))
        path = writer.folder / "contact_sheet.png"
        cells = [cell for row in rows for cell in (*row.left, *row.right)]
        if not cells:
            rank_zero_info("No contact sheet: none of its images can be read")
            return
        with replace_file(path) as staged:
            first = cells[0].image
            size = cell_size(self.height, (first.height, first.width))
            draw_grid(rows, size, _HEADINGS).save(staged, "PNG")
        rank_zero_info(f"Contact sheet: {path}")

    def rows(self, real: Manifest, generated: Manifest) -> list[GridRow]:
        """Choose identities and images.

        Args:
            real: the identities' real images.
            generated: their generated images.
        """
        labels, keys = generated.identities()
        real_labels, real_keys = real.identities()
        chosen = spread(len(keys), self.identities)
        return [
            self._row(
                identity_name(keys[label]),
                real.take(np.flatnonzero(real_labels == real_keys.index(keys[label]))),
                generated.take(np.flatnonzero(labels == label)[: self.generated]),
            )
            for label in chosen.tolist()
        ]

    def _row(self, name: str, real: Manifest, generated: Manifest) -> GridRow:
        _, first = np.unique(real.numpy("camid"), return_index=True)
        others = np.setdiff1d(np.arange(len(real)), first)
        shown = np.concatenate([first, others])[: self.real].tolist()
        names, made = real.table["file_name"], generated.table["file_name"]
        described = real.table["description"][0].as_py() if "description" in real.columns else None
        asked = [list(json.loads(each.as_py()).values()) for each in generated.table["attributes"]]
        return GridRow(
            title=f"{name}   {described or ''}",
            left=_cells(real, [names[row].as_py() for row in shown]),
            right=_cells(generated, made.to_pylist(), asked),
        )


def _cells(manifest: Manifest, names: Sequence[str], words: Sequence[Sequence[str]] = ()) -> list[Cell]:
    """Open images; those that cannot be read are left out, since a sheet is not worth a finished stage."""
    opened = (manifest.images.image_or_reason(name)[0] for name in names)
    return [Cell(image, words=words[place] if words else ()) for place, image in enumerate(opened) if image is not None]
