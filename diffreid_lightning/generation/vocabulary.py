"""Vocabulary of Diversity Injection: attributes of an image and the phrases of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffreid_lightning.errors import UserError, did_you_mean, shorten
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.json_notes import mismatch
from diffreid_lightning.storage.yaml_files import read_yaml


@dataclass(frozen=True)
class Vocabulary:
    """Attributes (view, pose, place, ...) with the phrases that name their values.

    Args:
        phrases: two or more for each attribute; "" leaves the attribute out.

    Raises:
        UserError: no attribute, fewer than two phrases, or a phrase that is not text or occurs twice.
    """

    phrases: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.phrases:
            raise UserError("The vocabulary has no attribute.", remedy="see configs/vocabulary/default.yaml")
        for name, phrases in self.phrases.items():
            _check(name, phrases)

    @classmethod
    def read(cls, name: str) -> Vocabulary:
        """Read a vocabulary.

        Args:
            name: path of a YAML file, or a packaged vocabulary: ``default`` (for Stable Diffusion) or ``rendered`` (for
                tiny-sd).

        Raises:
            UserError: there is none, or it does not map attributes to lists of phrases.
        """
        file = _find(name)
        try:
            read: Any = read_yaml(file)
        except (ValueError, OSError) as error:
            raise UserError(
                f"The vocabulary {file} cannot be read as YAML.",
                found=str(error),
                remedy="fix the named line (indentation, colons, a repeated attribute)",
            ) from error
        wrong = mismatch(read, {str: list})
        if wrong is not None:
            raise UserError(
                f"The vocabulary {file} does not list phrases by attribute.",
                looked_for="an attribute, a colon, and below it one phrase a line, each behind a dash",
                found=wrong,
                remedy="start from configs/vocabulary/default.yaml",
            )
        try:
            return cls({str(key): tuple(phrases) for key, phrases in read.items()})
        except UserError as error:
            raise UserError(f"{error.what} ({file})", found=error.found, remedy=error.remedy) from error

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of phrases of each attribute, in order."""
        return tuple(len(phrases) for phrases in self.phrases.values())

    def name(self, values: Sequence[int]) -> dict[str, str]:
        """Look phrases up by number.

        Args:
            values: the number of a phrase for each attribute, in order.

        Returns:
            The phrase by attribute; attributes whose phrase is empty are left out.
        """
        chosen = {name: phrases[value] for (name, phrases), value in zip(self.phrases.items(), values, strict=True)}
        return {name: phrase for name, phrase in chosen.items() if phrase}


def _find(name: str) -> Path:
    folder = configs_folder() / "vocabulary"
    for candidate in (user_path(name), folder / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    packaged = sorted(path.stem for path in folder.glob("*.yaml"))
    raise UserError(
        f"There is no vocabulary {name!r}.",
        looked_for=f"{user_path(name).absolute()}, then a packaged vocabulary",
        found=f"packaged: {', '.join(packaged)}",
        remedy=did_you_mean(name, packaged, "give the path of a YAML file or one of these names"),
    )


def _check(name: str, phrases: tuple[str, ...]) -> None:
    what = f"The attribute {name!r} of the vocabulary cannot be used."
    strange = [repr(phrase) for phrase in phrases if not isinstance(phrase, str)]
    if strange:
        raise UserError(what, found=f"not text: {shorten(strange)}", remedy="put these phrases into quotes")
    plain = [" ".join(phrase.split()) for phrase in phrases]
    twice = sorted({repr(phrase) for phrase in plain if plain.count(phrase) > 1})
    if twice:
        raise UserError(what, found=f"more than once: {shorten(twice)}", remedy="list every phrase once")
    if len(phrases) < 2:
        raise UserError(what, found=f"{len(phrases)} phrases", remedy="give two or more, or drop the attribute")
