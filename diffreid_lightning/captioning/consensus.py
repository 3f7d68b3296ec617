"""Merge an identity's captions into one description by vote; view, pose, place and light stay with each image.

A kind of garment, a bag or hair is kept if more than the agreed share of the captions mention it; its noun and each of
its colors and patterns if more than that share of these mentions have them, otherwise the kind's common word without a
color. So a single caption that mistakes a jacket for a coat, or navy for black, has no effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from diffreid_lightning.captioning import lexicon
from diffreid_lightning.captioning.caption_parser import Item, ParsedCaption, read_caption
from diffreid_lightning.captioning.lexicon import Kind
from diffreid_lightning.errors import check_range

_SOMEBODY = "person"
_SEX = {"woman": "woman", "girl": "woman", "man": "man", "boy": "man"}
_CHILDREN = frozenset({"girl", "boy", "child"})


class Consensus(NamedTuple):
    """Description of an identity and circumstances of its images."""

    description: str  #: such as "a woman wearing a red top and blue trousers"; "" if no image has a caption
    circumstances: list[str]  #: for each image, such as "seen from behind, at night"; may be ""


def find_consensus(captions: Sequence[str | None], agreement: float = 0.5) -> Consensus:
    """Merge the captions of one identity.

    Args:
        captions: one for each of its images; None without a caption.
        agreement: a word is kept if more than this share of the captions have it, 0 to 1; 0.5 is a majority. Words of
            all captions are always kept.

    Raises:
        UserError: the share is not from 0 to 1.
    """
    check_range("The agreement of captions", agreement, 0, 1)
    read = [None if caption is None else read_caption(caption) for caption in captions]
    parsed = [caption for caption in read if caption is not None]
    description = _describe(parsed, agreement) if parsed else ""
    return Consensus(description, ["" if caption is None else caption.circumstances for caption in read])


def measure_yield(described: Sequence[Consensus]) -> dict[str, float]:
    """Measure what captions give: shares of the identities, and of their images, of which something is said.

    Args:
        described: the identities' consensus.

    Returns:
        Shares, 0 to 1: of the identities whose description has an upper garment, a lower one or a dress, its color,
        hair, a bag; and of the images with circumstances.
    """
    parsed = [read_caption(each.description) for each in described]
    upper = (lexicon.TOP, lexicon.JACKET, lexicon.SUIT, lexicon.DRESS)
    lower = (lexicon.TROUSERS, lexicon.SHORTS, lexicon.SKIRT, lexicon.DRESS)
    colors = frozenset(lexicon.COLORS.values())
    found: dict[str, list[bool]] = {}
    for name, kinds in (("upper garment", upper), ("lower garment", lower)):
        worn = [[item for item in caption.items if item.kind in kinds] for caption in parsed]
        found[name] = [bool(items) for items in worn]
        found[f"{name}'s color"] = [any(item.modifiers & colors for item in items) for items in worn]
    for name, kind in (("hair", lexicon.HAIR), ("bag", lexicon.BAG)):
        found[name] = [any(item.kind == kind for item in caption.items) for caption in parsed]
    found["circumstances"] = [text != "" for each in described for text in each.circumstances]
    return {name: sum(values) / max(1, len(values)) for name, values in found.items()}


def _describe(parsed: list[ParsedCaption], agreement: float) -> str:
    """Write the description from the agreed parts, from person to bag."""
    parts = [with_article(_person(parsed, agreement))]
    hair = _find_agreed((lexicon.HAIR,), parsed, agreement)
    if hair and hair[0] != "hair":
        parts.append(f"with {with_article(hair[0])}")
    worn = [item for kinds in lexicon.WORN for item in _find_agreed(kinds, parsed, agreement)]
    if worn:
        *others, last = map(with_article, worn)
        parts.append("wearing " + (f"{', '.join(others)} and {last}" if others else last))
    bag = _find_agreed((lexicon.BAG,), parsed, agreement)
    if bag:
        parts.append(f"{'and ' if worn else ''}carrying {with_article(bag[0])}")
    return " ".join(parts)


def _person(parsed: list[ParsedCaption], agreement: float) -> str:
    persons = [caption.person for caption in parsed if caption.person]
    ages = [caption.age for caption in parsed if caption.age]
    sex = _winner((_SEX.get(person) for person in persons), len(parsed), agreement)
    child = _holds(sum(person in _CHILDREN for person in persons), len(parsed), agreement)
    age = _winner(ages, len(parsed), agreement)
    if child:
        return {"woman": "girl", "man": "boy"}.get(sex or "", "child")
    return f"{age} {sex or _SOMEBODY}" if age else sex or _SOMEBODY


def _find_agreed(kinds: tuple[Kind, ...], parsed: list[ParsedCaption], agreement: float) -> list[str]:
    """Describe the items of easily confused kinds: each agreed kind, or all kinds as one."""
    mentions = {kind.common: _mentions((kind,), parsed) for kind in kinds}
    agreed = [items for items in mentions.values() if _holds(len(items), len(parsed), agreement)]
    if not agreed:
        together = _mentions(kinds, parsed)
        agreed = [together] if _holds(len(together), len(parsed), agreement) else []
    return [_word(items, agreement) for items in agreed]


def _mentions(kinds: tuple[Kind, ...], parsed: list[ParsedCaption]) -> list[Item]:
    """Return the first item of these kinds in each caption that has one."""
    found = ([item for item in caption.items if item.kind in kinds] for caption in parsed)
    return [items[0] for items in found if items]


def _word(items: list[Item], agreement: float) -> str:
    """Describe an item by the agreed words of its mentions."""
    noun = _winner((item.noun for item in items), len(items), agreement)
    if noun is None:
        noun = max(lexicon.KINDS, key=lambda kind: sum(item.kind == kind for item in items)).common
    votes = Counter(word for item in items for word in sorted(item.modifiers))
    kept = {word for word, count in votes.items() if _holds(count, len(items), agreement)}
    before = _in_order(kept, lexicon.BEFORE_COLOR)
    colors = sorted(kept & set(lexicon.COLORS.values()), key=lambda word: (-votes[word], word))
    after = _in_order(kept, lexicon.AFTER_COLOR)
    return " ".join(filter(None, [*before, " and ".join(colors), *after, noun]))


def _in_order(kept: set[str], table: dict[str, str]) -> list[str]:
    return [word for word in dict.fromkeys(table.values()) if word in kept]


def _winner(votes: Iterable[str | None], of: int, agreement: float) -> str | None:
    """Return the word with the most votes if it has enough; of several the first alphabetically."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return None
    word, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return word if _holds(count, of, agreement) else None


def _holds(votes: int, of: int, agreement: float) -> bool:
    return of > 0 and (votes / of > agreement or votes == of)  # agreement * of rounds off the limit


def with_article(phrase: str) -> str:
    """Put an indefinite article before a noun phrase, unless its noun is a plural."""
    noun = phrase.rpartition(" ")[2]
    return phrase if noun in lexicon.PLURAL else f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"
