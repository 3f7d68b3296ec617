"""Let format readers call detection and suggestions without a circular import.

The detection imports every format, so no format can import it; ``datasets/__init__`` connects them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diffreid_lightning.manifest.image_root import ImageRoot

if TYPE_CHECKING:
    from diffreid_lightning.datasets.base import PersonDataset

TABLE = (
    "list the images in a table and give that: a file labels.csv in this folder with the columns path, pid, camid "
    "and split (train, query or gallery; the last two columns are optional)"
)

_recognize: Callable[[ImageRoot], PersonDataset | None]
_suggest: Callable[[ImageRoot, str], str]


def connect(
    recognizer: Callable[[ImageRoot], PersonDataset | None], suggester: Callable[[ImageRoot, str], str]
) -> None:
    """Set the functions behind :func:`recognize_format` and :func:`suggestion`."""
    global _recognize, _suggest
    _recognize, _suggest = recognizer, suggester


def recognize_format(images: ImageRoot) -> PersonDataset | None:
    """Return the dataset of any format at ``images``, or None."""
    return _recognize(images)


def suggestion(images: ImageRoot, generic: str = TABLE) -> str:
    """Return the options that read a folder, as a remedy; ``generic`` if none can be derived."""
    return _suggest(images, generic)
