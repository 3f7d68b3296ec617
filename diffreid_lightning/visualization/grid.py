"""Draw images in rows on one sheet: each row under a title, each image framed or with words below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

#: frames of right and wrong, or of kept and rejected, images
RIGHT, WRONG = (34, 160, 70), (214, 50, 48)
_GAP, _MARGIN, _FRAME, _TEXT, _LINE = 6, 14, 3, 11, 14
_INK, _PALE = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class Cell:
    """An image in a grid.

    Args:
        image: the image; it is resized to the grid's cells.
        frame: color of a frame around it; None for none.
        words: phrases below it, each on lines of its own.
    """

    image: Image.Image
    frame: Color | None = None
    words: Sequence[str] = ()


@dataclass(frozen=True)
class GridRow:
    """A row of a grid.

    Args:
        title: a line above its images.
        left: images before the divider; a grid without a divider has none.
        right: images behind it.
    """

    title: str
    right: Sequence[Cell]
    left: Sequence[Cell] = field(default=())


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Choose places evenly over a list, its first and its last among them.

    Args:
        count: length of the list.
        most: places to choose at most, at least 1.

    Returns:
        (min(count, most),) ascending places.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def cell_size(height: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of a grid's cells, with the proportions of images of a shape, (height, width)."""
    return max(1, round(height * shape[1] / shape[0])), height


def draw_grid(rows: Sequence[GridRow], size: tuple[int, int], headings: tuple[str, str] = ("", "")) -> Image.Image:
    """Draw rows of images, one below the other.

    Args:
        rows: the rows, at least one.
        size: width and height of the images in pixels.
        headings: words over the images before and behind the divider.

    Returns:
        The sheet.
    """
    font = ImageFont.load_default(_TEXT)
    cells = [(*row.left, *row.right) for row in rows]
    border = _FRAME if any(cell.frame for row in cells for cell in row) else 0
    outer = (size[0] + 2 * border, size[1] + 2 * border)
    wrapped = [[_wrap_all(cell.words, size[0], font) for cell in row] for row in cells]
    depths = [_LINE + outer[1] + _LINE * max(map(len, lines), default=0) + _MARGIN for lines in wrapped]
    step = outer[0] + _GAP
    lefts, rights = max(len(row.left) for row in rows), max(len(row.right) for row in rows)
    divide = _MARGIN + lefts * step + _MARGIN // 2
    behind = divide + _MARGIN if lefts else _MARGIN
    head = _LINE if any(headings) else 0
    sheet = Image.new("RGB", (behind + rights * step + _MARGIN, 2 * _MARGIN + head + sum(depths)), "white")
    pen = ImageDraw.Draw(sheet)
    for left, words in zip((_MARGIN, behind), headings, strict=True):
        pen.text((left, _MARGIN), words, fill=_PALE, font=font)
    top = _MARGIN + head
    for row, lines, depth in zip(rows, wrapped, depths, strict=True):
        pen.text((_MARGIN, top), cut(row.title, sheet.width - 2 * _MARGIN, font), fill=_INK, font=font)
        below = top + _LINE + 2
        places = [_MARGIN + n * step for n in range(len(row.left))] + [behind + n * step for n in range(len(row.right))]
        for cell, said, left in zip((*row.left, *row.right), lines, places, strict=True):
            sheet.paste(frame_image(cell.image, size, cell.frame, border), (left, below))
            text = "\n".join(said)
            pen.multiline_text((left, below + outer[1] + 1), text, fill=_PALE, font=font, spacing=_LINE - _TEXT)
        if lefts:
            pen.line((divide, below, divide, below + outer[1]), fill=_PALE)
        top += depth
    return sheet


def draw_samples(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Draw rows of images, each under its title.

    Args:
        rows: titles with their images, all of one size.

    Returns:
        The sheet.
    """
    return draw_grid([GridRow(title, [Cell(image) for image in images]) for title, images in rows], rows[0][1][0].size)


def frame_image(image: Image.Image, size: tuple[int, int], color: Color | None, border: int = _FRAME) -> Image.Image:
    """Resize an image to ``size`` (width, height) and put a frame of ``border`` pixels around it; white for None."""
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    if not border:
        return resized
    framed = Image.new("RGB", (size[0] + 2 * border, size[1] + 2 * border), color or "white")
    framed.paste(resized, (border, border))
    return framed


def side_by_side(sheets: Sequence[Image.Image]) -> Image.Image:
    """Put sheets beside one another, aligned at the top."""
    whole = Image.new("RGB", (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width
    return whole


def wrap(phrase: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a phrase into lines of at most ``width`` pixels, between words; a longer word is cut."""
    lines: list[str] = []
    for word in phrase.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(cut(word, width, font))
    return lines


def cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text to ``width`` pixels, with an ellipsis at its end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrap_all(phrases: Sequence[str], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    return [line for phrase in phrases for line in wrap(phrase, width, font)]
