"""Sheets of small pictures in rows, each row under a line of text."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

_GAP, _LINE = 3, 13


def draw_samples(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Draw rows of images, each under its prompt.

    Args:
        rows: prompts with their images, all of one size.

    Returns:
        The sheet.
    """
    width, height = rows[0][1][0].size
    columns = max(len(images) for _, images in rows)
    size = (columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP + _LINE) + _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for line, (prompt, images) in enumerate(rows):
        top = _GAP + line * (height + _GAP + _LINE)
        pen.text((_GAP, top), prompt, fill=(20, 20, 20))
        for column, image in enumerate(images):
            sheet.paste(image, (_GAP + column * (width + _GAP), top + _LINE))
    return sheet


def side_by_side(sheets: Sequence[Image.Image]) -> Image.Image:
    """Put sheets beside one another, aligned at the top."""
    whole = Image.new("RGB", (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width
    return whole
