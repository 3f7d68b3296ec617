"""Find images that are not read because of their suffix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot, is_image_name

_SUFFIX = re.compile(
    r"\.(jfif|jpe|jif|jp2|j2k|jpx|jxl|heic|heif|avif|apng|tga|pbm|pnm|pfm|dng|cr2|cr3|nef|arw|raf|orf|rw2|qoi|psd|ico"
    r"|svg|exr)"
)
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_HEADER = 16
_PROBE = 3  # files per suffix that are opened


def find_unread_images(images: ImageRoot, names: Iterable[str]) -> dict[str, tuple[list[str], str]]:
    """Return the files that look like images and are not read, by suffix ("" for none).

    A suffix counts if it is a known image suffix, or if one of its first files starts like an image.

    Args:
        images: the root.
        names: files below it, images or not.

    Returns:
        By suffix in lower case: its files, and the format of their content if it can be read, else "".
    """
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        if not is_image_name(name):
            by_suffix.setdefault(os.path.splitext(name)[1].lower(), []).append(name)  # noqa: PTH122 (hot)
    found = {}
    for suffix, files in by_suffix.items():
        inside = next(filter(None, (_format(images, name) for name in files[:_PROBE])), "")
        if inside or _SUFFIX.fullmatch(suffix):
            found[suffix] = (files, inside)
    return found


def describe_unread(found: dict[str, tuple[list[str], str]]) -> str:
    """Count and name the files of :func:`find_unread_images` by suffix; "" if there are none."""
    counts = [f"{len(files):,} {suffix or 'without suffix'}" for suffix, (files, _) in sorted(found.items())]
    files = [name for group, _ in found.values() for name in group]
    return f"{len(files):,} files that look like images ({', '.join(counts)}; {shorten(files, 3)})" if files else ""


def suggest_conversion(found: dict[str, tuple[list[str], str]]) -> str:
    """Return how to make the files of :func:`find_unread_images` readable."""
    ways = []
    for suffix, (_, inside) in sorted(found.items()):
        what = f"{suffix} files" if suffix else "files without suffix"
        new = {"JPEG": ".jpg", "TIFF": ".tif"}.get(inside, f".{inside.lower()}")
        ways.append(f"rename {what} to {new}, which they are" if inside else f"convert {what} to .jpg or .png")
    return "; ".join(ways)


def no_images_error(what: str, images: ImageRoot, folder: str = "", looked_for: str | None = None) -> UserError:
    """Return the error for a folder in which no image can be read."""
    names = images.names(folder)
    unread = find_unread_images(images, names)
    return UserError(
        what,
        looked_for=looked_for,
        found=describe_unread(unread) or shorten(names) or "no files",
        remedy=suggest_conversion(unread) or "unpack or copy the images again",
    )


def _format(images: ImageRoot, name: str) -> str:
    try:
        data = images.read_start(name, _HEADER)
    except UserError:  # an unreadable file is not an image
        return ""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
