"""Find the files that come with the package besides its code."""

from __future__ import annotations

from pathlib import Path


def configs_folder() -> Path:
    """Return the folder of the configs that come with the package (a wheel's copy, or the checkout's own)."""
    package = Path(__file__).resolve().parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"
