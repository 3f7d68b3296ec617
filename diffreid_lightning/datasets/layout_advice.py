"""Let format readers call detection and suggestions without a circular import.

The detection imports every format, so no format can import it; ``datasets/__init__`` sets both.
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

recognize: Callable[[ImageRoot], PersonDataset | None]
"""Return the dataset of any format at a place, or None."""
suggest: Callable[[ImageRoot, str], str]
"""Return the options that read a folder, as a remedy; the given text if none can be derived."""
