"""Images as data URIs, within a number of bytes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.manifest.image_decoding import decode_image
from diffreid_lightning.report.blocks import block

_LARGEST = (1600, 4000)  # width and height in pixels
_QUALITY = 80


class PictureBudget:
    """Embed images until a number of bytes is spent; name those that no longer fit.

    Args:
        most: bytes of all data URIs together.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def embed(self, image: Image.Image, alt: str) -> Markup:
        """Return an image as WebP, or words in its place where it does not fit; larger ones are reduced.

        Args:
            image: any size.
            alt: description for those who do not see it.
        """
        image = image.convert("RGB")
        image.thumbnail(_LARGEST, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=_QUALITY)
        source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(source) > self.left:
            return Markup.escape(f"Left out, as the page would become too large: {alt}")
        self.left -= len(source)
        return block("image", source, image.size, alt)

    def embed_file(self, file: Path, alt: str, caption: str = "") -> list[Markup]:
        """Return an image file as a figure; nothing where there is none, words where it cannot be read."""
        if not file.is_file():
            return []
        try:
            image = self.embed(decode_image(file.read_bytes(), str(file)), alt)
        except (OSError, UserError) as error:
            image = Markup.escape(f"{file.name} cannot be read: {first_line(error)}")
        return [block("figure", image, caption)]
