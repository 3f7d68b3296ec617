"""Images as data URIs, within a number of bytes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_decoding import decode_image
from diffreid_lightning.report.blocks import Block, Picture, Text

_WIDEST, _HIGHEST = 1600, 4000
_QUALITY = 80


class PictureBudget:
    """Embed images until a number of bytes is spent; name those that no longer fit.

    Args:
        most: bytes of all data URIs together.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def embed(self, image: Image.Image, alt: str, caption: str = "") -> Block:
        """Encode an image as WebP of at most 1600 x 4000 pixels.

        Args:
            image: any size.
            alt: description of it.
            caption: words below it.

        Returns:
            The picture, or a text in its place where it does not fit.
        """
        image = image.convert("RGB")
        image.thumbnail((_WIDEST, _HIGHEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=_QUALITY)
        source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(source) > self.left:
            return Text(f"Left out, as the page would become too large: {caption or alt}")
        self.left -= len(source)
        return Picture(source, image.size, alt, caption)

    def embed_file(self, file: Path, alt: str, caption: str = "") -> list[Block]:
        """Embed an image file; nothing where there is none, a text where it cannot be read."""
        if not file.is_file():
            return []
        try:
            return [self.embed(decode_image(file.read_bytes(), str(file)), alt, caption)]
        except (OSError, UserError) as error:
            return [Text(f"{file.name} cannot be read: {str(error).splitlines()[0]}")]
