"""The one prompt template of training and generation: fixed words with three named slots."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from diffreid_lightning.errors import UserError, nearest

SLOTS = ("identity", "description", "circumstances")
_SOMEBODY = "a person"  # the class noun of DreamBooth's coarse prompts, where nothing is known of whom
_SLOT = re.compile(r"\{([^{}]*)\}")
_SEPARATOR = " ,\t\n"
_CLOSING = (".", ";", ":", "!", "?")


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with named slots; an empty slot vanishes together with the comma or space that set it off.

    ``identity`` takes an identity's token (``<market1501-0002>``), ``description`` the words that are true of all its
    images ("a woman wearing a red top"), ``circumstances`` those of one image ("seen from behind, at night"). Where the
    template asks for the person and both ``identity`` and ``description`` are empty, "a person" stands in, so that a
    prompt is a phrase whatever is left out.

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

    @property
    def slots(self) -> frozenset[str]:
        """The names of the slots that occur."""
        return frozenset(_SLOT.findall(self.text))

    def naming(self) -> PromptTemplate:
        """Return the template itself, for prompts that must say who is shown.

        Raises:
            UserError: it has no place for the identity, so everybody would be learnt or drawn as anybody.
        """
        if "identity" not in self.slots:
            raise UserError(
                f"The prompt template does not name the identity: {self.text!r}",
                looked_for="{identity} somewhere in it",
                remedy=f"such as {PromptTemplate().text!r}",
            )
        return self

    def __call__(self, *, identity: str = "", description: str = "", circumstances: str = "") -> str:
        """Fill the slots; spaces and commas around a value do not count.

        Args:
            identity: an identity's token, or a word in its place.
            description: what is true of all images of the identity.
            circumstances: what is true of this image.
        """
        values = {"identity": identity, "description": description, "circumstances": circumstances}
        values = {name: value.strip(_SEPARATOR) for name, value in values.items()}
        person = [name for name in ("description", "identity") if name in self.slots]
        if person and not any(values[name] for name in person):
            values[person[0]] = _SOMEBODY
        return self._fill(values)

    def without_identity(self) -> PromptTemplate:
        """Return the template for prompts of nobody in particular, such as those of the prior images."""
        return _without_identity(self)

    def _fill(self, values: dict[str, str]) -> str:
        # Fixed words stand at even places, names of slots at odd ones.
        pieces = _SLOT.split(self.text)
        written = pieces[0]
        value_before = False  # a value, then nothing but separators
        for name, words in zip(pieces[1::2], pieces[2::2], strict=True):
            if values[name]:
                written += values[name] + words
            elif value_before or words[:1] in _CLOSING:  # "<name> {description}, at night": what stands before goes
                written = written.rstrip(_SEPARATOR) + words
            else:  # "a photo of {identity}, a woman": what stands after goes
                written += words.lstrip(_SEPARATOR)
            value_before = (value_before or bool(values[name])) and not words.strip(_SEPARATOR)
        return " ".join(written.rstrip(_SEPARATOR).lstrip(_SEPARATOR + "".join(_CLOSING)).split())


@functools.lru_cache(maxsize=64)
def _without_identity(template: PromptTemplate) -> PromptTemplate:
    """Made once for each template: a run asks for it at every image."""
    somebody = "" if "description" in template.slots else _SOMEBODY
    others = {name: f"{{{name}}}" for name in ("description", "circumstances")}
    return PromptTemplate(template._fill({"identity": somebody, **others}))
