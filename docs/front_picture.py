"""Compose the picture of the front page from a finished chain: real images, generated images, and which are kept.

python -m diffreid_lightning pipeline
python docs/front_picture.py runs/tour --people 5 194 160 --out docs/images/real_generated_kept.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.manifest.manifest import Manifest

WIDTH, HEIGHT, SPACE, MIDDLE, TOP, LINE = 88, 176, 8, 34, 34, 32
REAL, GENERATED = 3, 8
BLACK, GREEN, RED = "#222222", "#1b7f3b", "#b3261e"


def main() -> None:
    """Read the folders of the stages and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of a chain on MiniPerson")
    parser.add_argument("--people", type=int, nargs="+", required=True, help="person ids")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    given = parser.parse_args()
    real = Manifest.read(given.root / "caption").table.to_pylist()
    scored = Manifest.read(given.root / "score_generated")
    kept = set(Manifest.read(given.root / "select" / "diff_person").table["file_name"].to_pylist())
    images = open_dataset("miniperson").manifest().images
    picture, draw = blank(len(given.people))
    for row, person in enumerate(given.people):
        y = TOP + row * (HEIGHT + LINE)
        for place, name in enumerate(one_per_camera([each for each in real if each["pid"] == person])):
            picture.paste(images.image(name).resize((WIDTH, HEIGHT)), (left(place), y))
        generated = [each for each in scored.table.to_pylist() if each["pid"] == person]
        for place, each in enumerate(sorted(generated, key=lambda one: one["file_name"])[:GENERATED]):
            cell = scored.images.image(each["file_name"]).resize((WIDTH, HEIGHT))
            paste_scored(picture, draw, cell, (left(REAL + place), y), each["confidence"], each["file_name"] in kept)
    picture.save(given.out, quality=88)


def blank(rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty picture with its headings."""
    picture = Image.new("RGB", (left(REAL + GENERATED) + SPACE, TOP + rows * (HEIGHT + LINE)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((left(0), 8), "real", BLACK, font(16, bold=True))
    x: float = left(REAL)
    for text, color in (("generated, with confidence:  ", BLACK), ("kept  ", GREEN), ("rejected", RED)):
        draw.text((x, 8), text, color, font(16, bold=True))
        x += draw.textlength(text, font(16, bold=True))
    return picture, draw


def left(place: int) -> int:
    """Return the left edge of a column."""
    return 4 + place * (WIDTH + SPACE) + MIDDLE * (place >= REAL)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def one_per_camera(rows: list[dict[str, object]]) -> list[str]:
    """Return the first unoccluded image of each of the first cameras."""
    found: dict[object, str] = {}
    for row in sorted(rows, key=lambda one: str(one["file_name"])):
        if not row["occluded"]:
            found.setdefault(row["camid"], str(row["file_name"]))
    return list(found.values())[:REAL]


def paste_scored(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Image.Image,
    place: tuple[int, int],
    confidence: float,
    kept: bool,
) -> None:
    """Paste a generated image, framed where it is kept and faded where it is not, over its confidence."""
    x, y = place
    color = GREEN if kept else RED
    picture.paste(cell if kept else Image.blend(cell, Image.new("RGB", cell.size, "white"), 0.55), place)
    if kept:
        draw.rectangle((x - 2, y - 2, x + WIDTH + 1, y + HEIGHT + 1), outline=color, width=3)
    text = f"{confidence:.2f}"
    draw.text((x + (WIDTH - draw.textlength(text, font(14))) / 2, y + HEIGHT + 3), text, color, font(14))


if __name__ == "__main__":
    main()
