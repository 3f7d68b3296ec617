"""Prompt template of training and generation: fixed words with three named slots.

What fills them for a generated image: ``prompts`` of the strategies in ``generation/diversity/``; its attributes come
from ``generation/datamodule.py``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from diffreid_lightning.errors import UserError, nearest

SLOTS = ("identity", "description", "circumstances")
_SOMEBODY = "a person"  # class noun for prompts without identity and description
_SLOT = re.compile(r"\{([^{}]*)\}")
_SEPARATOR = " ,\t\n"
_CLOSING = (".", ";", ":", "!", "?")


@dataclass(frozen=True)
class PromptTemplate:
    """Prompt with named slots; an empty slot is removed together with its comma or space.

    ``identity`` takes an identity's token (``<market1501-0002>``), ``description`` the words that hold for all its
    images ("a woman wearing a red top"), ``circumstances`` those of one image ("seen from behind, at night"). If the
    template has a slot for the person and both ``identity`` and ``description`` are empty, "a person" is filled in.

    Args:
        text: the template; each slot may occur any number of times or not at all.

    Raises:
        UserError: an unknown slot, or a brace without its partner.

    Examples:
        >>> PromptTemplate()(identity="<market1501-0002>", description="a woman in red", circumstances="at night")
        'a photo of <market1501-0002>, a woman in red, at night'
        >>> PromptTemplate().without_identity()(description="a woman in red")
        'a photo of a woman in red'
        >>> PromptTemplate()(circumstances="at night")
        'a photo of a person, at night'
    """

    text: str = "a photo of {identity}, {description}, {circumstances}"

    def __post_init__(self) -> None:
        for name in _SLOT.findall(self.text):
            if name not in SLOTS:
                guess = nearest(name, SLOTS)
                raise UserError(
                    f"The prompt template has an unknown slot {{{name}}}: {self.text!r}",
                    looked_for=", ".join(f"{{{slot}}}" for slot in SLOTS),
                    remedy=f"did you mean {{{guess}}}?" if guess else "use the slots above, or plain words",
                )
        if re.search(r"[{}]", _SLOT.sub("", self.text)):
            raise UserError(
                f"The prompt template has a brace without its partner: {self.text!r}",
                remedy="braces stand around the names of slots and nowhere else",
            )

    @functools.cached_property
    def slots(self) -> frozenset[str]:
        """Names of the slots in the template."""
        return frozenset(_SLOT.findall(self.text))

    def require_identity(self) -> PromptTemplate:
        """Return the template itself, if it has the slot ``identity``.

        Raises:
            UserError: it has no such slot, so all identities would share one prompt.
        """
        if "identity" not in self.slots:
            raise UserError(
                f"The prompt template does not name the identity: {self.text!r}",
                looked_for="{identity} somewhere in it",
                remedy=f"such as {PromptTemplate().text!r}",
            )
        return self

    def __call__(self, *, identity: str = "", description: str = "", circumstances: str = "") -> str:
        """Fill the slots; spaces and commas around a value are stripped.

        Args:
            identity: an identity's token, or a word in its place.
            description: words that hold for all images of the identity.
            circumstances: words that hold for this image.
        """
        values = {"identity": identity, "description": description, "circumstances": circumstances}
        values = {name: value.strip(_SEPARATOR) for name, value in values.items()}
        person = [name for name in ("description", "identity") if name in self.slots]
        if person and not any(values[name] for name in person):
            values[person[0]] = _SOMEBODY
        return self._fill(values)

    def without_identity(self) -> PromptTemplate:
        """Return the template without the identity, as for prior images."""
        return _without_identity(self)

    def _fill(self, values: dict[str, str]) -> str:
        # Fixed words have even indices, slot names odd ones.
        pieces = _SLOT.split(self.text)
        written = pieces[0]
        value_before = False  # a value, then only separators
        for name, words in zip(pieces[1::2], pieces[2::2], strict=True):
            if values[name]:
                written += values[name] + words
            elif value_before or words[:1] in _CLOSING:  # "<name> {description}, at night": drop separators before
                written = written.rstrip(_SEPARATOR) + words
            else:  # "a photo of {identity}, a woman": drop separators after
                written += words.lstrip(_SEPARATOR)
            value_before = (value_before or bool(values[name])) and not words.strip(_SEPARATOR)
        return " ".join(written.rstrip(_SEPARATOR).lstrip(_SEPARATOR + "".join(_CLOSING)).split())


@functools.lru_cache(maxsize=64)
def _without_identity(template: PromptTemplate) -> PromptTemplate:
    """Build it once for each template: it is needed for every image."""
    somebody = "" if "description" in template.slots else _SOMEBODY
    others = {name: f"{{{name}}}" for name in ("description", "circumstances")}
    return PromptTemplate(template._fill({"identity": somebody, **others}))
