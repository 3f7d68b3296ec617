"""Read a folder of person crops that nobody has labeled."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from diffreid_lightning.datasets.base import PersonDataset, Rows
from diffreid_lightning.datasets.name_patterns import compile_pattern, number_words
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot

_CAMERA = re.compile(r"(?:^|[_\-./])c(?:am(?:era)?)?[_\-]?(?P<camera>\d+)(?=$|[_\-./s])", re.IGNORECASE)

_MOST_CAMERAS = 64  # more folders are rather people, or days


class CropFolder(PersonDataset):
    """Images in a folder and its subfolders, as cameras or a detector leave them: no identities, cameras where told.

    All images are of split ``train`` and of one identity, 0, which stands for nobody in particular: the format is for
    trainings that use no labels.

    **Cameras.** From the pattern's group ``camera``; else from names like ``cam3``, ``camera_3``, ``c3`` or ``c3s1`` in
    the path, where every image has one; else from the folders, where all images lie exactly one folder deep, in 2 to 64
    folders. Otherwise cameras are unknown, and all images count as of one.

    Args:
        root: the folder, or a .zip of it.
        pattern: regular expression, searched in the path below the root, with a group ``camera``.
        source: the manifest's source, which keeps images of different folders apart.

    Raises:
        UserError: ``pattern`` is no regular expression, has no group ``camera``, or does not match an image.
    """

    source = "crops"
    layout = "images, in any folders"

    def __init__(self, root: str | os.PathLike[str], *, pattern: str | None = None, source: str = "crops") -> None:
        super().__init__(root, source=source)
        self.pattern = pattern
        self._camera_pattern = None if pattern is None else compile_pattern("pattern", pattern, type(self).__name__)
        if self._camera_pattern is not None and "camera" not in self._camera_pattern.groupindex:
            raise UserError(
                f"The pattern {pattern!r} does not say where the camera is.",
                looked_for="a group named camera",
                remedy=r"write it like this: 'cam(?P<camera>\d+)'; or leave it out: names are read without it, too",
            )
        self._cameras_from = "unknown"

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether there is any image."""
        return bool(images.peek("", 1))

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Return false: a folder is read as unlabeled only where a command asks for unlabeled images."""
        return False

    @property
    def description(self) -> str:
        """The source and where its cameras come from."""
        self.scan()
        return f"{self.source}: unlabeled crops, cameras {self._cameras_from}"

    def _rows(self, images: ImageRoot) -> Rows:
        names = images.images()
        cameras = self._cameras(names)
        if all(camera.isdecimal() and len(camera) < 19 for camera in cameras):
            cameras = [str(int(camera)) for camera in cameras]  # cam1 and cam01 are one
        camids, _ = number_words(cameras)
        rows = Rows()
        for name, camera in zip(names, cameras, strict=True):
            rows.add(name, "train", 0, camids[camera])
        return rows

    def _cameras(self, names: Sequence[str]) -> list[str]:
        """Name the camera of each image; all "0" where they are unknown."""
        if self._camera_pattern is not None:
            search = self._camera_pattern.search
            cameras = [match["camera"] if (match := search(name)) is not None else None for name in names]
            unmatched = [name for name, camera in zip(names, cameras, strict=True) if camera is None]
            if unmatched:
                raise UserError(
                    f"The pattern {self.pattern!r} matches {len(names) - len(unmatched)} of {len(names)} images.",
                    found=f"the first it does not match: {unmatched[0]}",
                    remedy="mend the pattern, or leave it out",
                )
            self._cameras_from = "from the pattern"
            return [camera for camera in cameras if camera is not None]
        matches = [_CAMERA.search(name) for name in names]
        if names and all(matches):
            self._cameras_from = "from the names"
            return [match["camera"] for match in matches if match is not None]
        folders = [name.rpartition("/")[0] for name in names]
        if 1 < len(set(folders)) <= _MOST_CAMERAS and all(folder and "/" not in folder for folder in folders):
            self._cameras_from = "from the folders"
            return folders
        return ["0"] * len(names)
