"""The picture of a generated set: rows of identities, real images to the left, generated ones to the right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image, ImageDraw, ImageFont

from diffreid_lightning.callbacks.manifest_writer import planned
from diffreid_lightning.datasets.identities import identity_name
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.generation.writer import GeneratedImagesWriter
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.storage.atomic import replacing_file

_GAP, _MARGIN, _TEXT, _LINE = 6, 14, 11, 14
_INK, _PALE = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class SheetRow:
    """One identity.

    Args:
        title: a line above its images.
        real: real images.
        generated: generated images.
        words: what each generated image was asked to show, a list of phrases each.
    """

    title: str
    real: Sequence[Image.Image]
    generated: Sequence[Image.Image]
    words: Sequence[Sequence[str]]


def draw_contact_sheet(rows: Sequence[SheetRow], height: int = 192) -> Image.Image:
    """Draw identities one below the other: real images | generated ones, under each what it was asked to show.

    Args:
        rows: the identities; all images in them have one shape.
        height: of the images in pixels.
    """
    font = ImageFont.load_default(_TEXT)
    first = next(image for row in rows for image in (*row.real, *row.generated))
    width = max(1, round(height * first.width / first.height))
    step = width + _GAP
    wrapped = [
        [[line for phrase in words for line in wrap(phrase, width, font)] for words in row.words] for row in rows
    ]
    depths = [_LINE + height + _LINE * max(map(len, lines), default=0) + _MARGIN for lines in wrapped]
    reals, columns = max(len(row.real) for row in rows), max(len(row.generated) for row in rows)
    divide = _MARGIN + reals * step + _MARGIN // 2
    sheet = Image.new(
        "RGB", (divide + _MARGIN + columns * step + _MARGIN, 2 * _MARGIN + _LINE + sum(depths)), (255, 255, 255)
    )
    pen = ImageDraw.Draw(sheet)
    left_of = [
        *(_MARGIN + place * step for place in range(reals)),
        *(divide + _MARGIN + n * step for n in range(columns)),
    ]
    pen.text((left_of[0], _MARGIN), "real", fill=_PALE, font=font)
    if columns:
        pen.text((left_of[reals], _MARGIN), "generated, and what was asked for", fill=_PALE, font=font)
    top = _MARGIN + _LINE
    for row, lines, depth in zip(rows, wrapped, depths, strict=True):
        pen.text((_MARGIN, top), _cut(row.title, sheet.width - 2 * _MARGIN, font), fill=_INK, font=font)
        below = top + _LINE + 2
        for place, image in enumerate(row.real):
            sheet.paste(_sized(image, (width, height)), (left_of[place], below))
        for place, (image, said) in enumerate(zip(row.generated, lines, strict=True)):
            left = left_of[reals + place]
            sheet.paste(_sized(image, (width, height)), (left, below))
            pen.multiline_text(
                (left, below + height + 1), "\n".join(said), fill=_PALE, font=font, spacing=_LINE - _TEXT
            )
        pen.line((divide, below, divide, below + height), fill=_PALE)
        top += depth
    return sheet


def wrap(phrase: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a phrase into lines of at most ``width`` pixels, between words; a longer word is cut."""
    lines: list[str] = []
    for word in phrase.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_cut(word, width, font))
    return lines


class ContactSheet(Callback):
    """Draw some identities of a generated set beside their real images, as ``contact_sheet.png`` in its folder.

    Needs a :class:`~.shard_writer.GeneratedImagesWriter`; draws when generation has ended.

    Args:
        identities: rows, evenly over the identities.
        real: real images each, of different cameras as far as there are.
        generated: generated images each, the first ones.
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
        """Look for the writer, whose work must be over when the sheet is drawn.

        Raises:
            UserError: there is none before this callback.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        self._writer = next((each for each in before if isinstance(each, GeneratedImagesWriter)), None)
        if stage == "predict" and self._writer is None:
            raise UserError(
                "There are no images for a contact sheet.",
                looked_for="GeneratedImagesWriter before ContactSheet in trainer.callbacks",
                remedy="put it there, or drop ContactSheet",
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw, on rank zero, once the whole set is there."""
        writer = self._writer
        if stage != "predict" or writer is None or not trainer.is_global_zero or not writer.parts.finished:
            return
        rows = self.rows(planned(trainer).manifest, Manifest.read(writer.folder / FILE_NAME))
        path = writer.folder / "contact_sheet.png"
        with replacing_file(path) as staged:
            draw_contact_sheet(rows, self.height).save(staged, "PNG")
        rank_zero_info(f"Contact sheet: {path}")

    def rows(self, real: Manifest, generated: Manifest) -> list[SheetRow]:
        """Choose identities and images.

        Args:
            real: the images that the identities were learnt from.
            generated: the images that were made of them.
        """
        labels, keys = generated.identities()
        real_labels, real_keys = real.identities()
        chosen = np.unique(np.linspace(0, len(keys) - 1, min(self.identities, len(keys))).round().astype(int))
        return [
            self._row(
                identity_name(keys[label]),
                real.take(np.flatnonzero(real_labels == real_keys.index(keys[label]))),
                generated.take(np.flatnonzero(labels == label)[: self.generated]),
            )
            for label in chosen.tolist()
        ]

    def _row(self, name: str, real: Manifest, generated: Manifest) -> SheetRow:
        _, first = np.unique(real.numpy("camid"), return_index=True)
        others = np.setdiff1d(np.arange(len(real)), first)
        shown = np.concatenate([first, others])[: self.real].tolist()
        names, made = real.table["file_name"], generated.table["file_name"]
        described = real.table["description"][0].as_py() if "description" in real.columns else None
        return SheetRow(
            title=f"{name}   {described or ''}",
            real=[real.images.image(names[row].as_py()) for row in shown],
            generated=[generated.images.image(each.as_py()) for each in made],
            words=[list(json.loads(each.as_py()).values()) for each in generated.table["attributes"]],
        )


def _sized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
