"""What an identity's captions agree on describes it; what one says of view, pose, place and light describes its image.

The vote is by caption. A kind of garment, a bag or hair stays when more than the agreed share of the captions mention
it; its noun and each of its colors and patterns when more than that share of these mentions have them, otherwise the
kind's common word and no color. So one caption that mistakes a jacket for a coat, or navy for black, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from diffreid_lightning.captioning import lexicon
from diffreid_lightning.captioning.caption_parser import Item, ParsedCaption, read_caption
from diffreid_lightning.captioning.lexicon import Kind
from diffreid_lightning.errors import UserError

_SOMEBODY = "person"
_SEX = {"woman": "woman", "girl": "woman", "man": "man", "boy": "man"}
_CHILDREN = frozenset({"girl", "boy", "child"})


class Consensus(NamedTuple):
    """What is said of an identity and of its images."""

    description: str  #: such as "a woman wearing a red top and blue trousers"; "" where no image has a caption
    circumstances: list[str]  #: for each image, such as "seen from behind, at night"; may be ""


def find_consensus(captions: Sequence[str | None], agreement: float = 0.5) -> Consensus:
    """Merge the captions of one identity.

    Args:
        captions: one for each of its images; None where an image has none.
        agreement: share of the captions, 0 to 1, which more than must have a word for it to describe the identity; 0.5
            is a majority. What all captions say always stays.

    Raises:
        UserError: the share is not from 0 to 1.
    """
    if not 0 <= agreement <= 1:
        raise UserError(f"The agreement of captions is {agreement}.", looked_for="a share from 0 to 1")
    read = [None if caption is None else read_caption(caption) for caption in captions]
    said = [caption for caption in read if caption is not None]
    description = _describe(said, agreement) if said else ""
    return Consensus(description, ["" if caption is None else caption.circumstances for caption in read])


def _describe(said: list[ParsedCaption], agreement: float) -> str:
    """Word what the captions agree on, from the person to the bag."""
    parts = [_with_article(_person(said, agreement))]
    hair = _agreed_items((lexicon.HAIR,), said, agreement)
    if hair and hair[0] != "hair":
        parts.append(f"with {_with_article(hair[0])}")
    worn = [item for kinds in lexicon.WORN for item in _agreed_items(kinds, said, agreement)]
    if worn:
        *others, last = map(_with_article, worn)
        parts.append("wearing " + (f"{', '.join(others)} and {last}" if others else last))
    bag = _agreed_items((lexicon.BAG,), said, agreement)
    if bag:
        parts.append(f"{'and ' if worn else ''}carrying {_with_article(bag[0])}")
    return " ".join(parts)


def _person(said: list[ParsedCaption], agreement: float) -> str:
    persons = [caption.person for caption in said if caption.person]
    ages = [caption.age for caption in said if caption.age]
    sex = _winner((_SEX.get(person) for person in persons), len(said), agreement)
    child = _holds(sum(person in _CHILDREN for person in persons), len(said), agreement)
    age = _winner(ages, len(said), agreement)
    if child:
        return {"woman": "girl", "man": "boy"}.get(sex or "", "child")
    return f"{age} {sex or _SOMEBODY}" if age else sex or _SOMEBODY


def _agreed_items(kinds: tuple[Kind, ...], said: list[ParsedCaption], agreement: float) -> list[str]:
    """Word the items of kinds that captioners take for each other: each kind that is agreed on, or all as one."""
    mentions = {kind.common: _mentions((kind,), said) for kind in kinds}
    agreed = [items for items in mentions.values() if _holds(len(items), len(said), agreement)]
    if not agreed:
        together = _mentions(kinds, said)
        agreed = [together] if _holds(len(together), len(said), agreement) else []
    return [_word(items, agreement) for items in agreed]


def _mentions(kinds: tuple[Kind, ...], said: list[ParsedCaption]) -> list[Item]:
    """Return the first item of these kinds in each caption that has one."""
    found = ([item for item in caption.items if item.kind in kinds] for caption in said)
    return [items[0] for items in found if items]


def _word(items: list[Item], agreement: float) -> str:
    """Word one thing from what its mentions have in common."""
    noun = _winner((item.noun for item in items), len(items), agreement)
    if noun is None:
        noun = max(lexicon.KINDS, key=lambda kind: sum(item.kind == kind for item in items)).common
    votes = Counter(word for item in items for word in sorted(item.said))
    kept = {word for word, count in votes.items() if _holds(count, len(items), agreement)}
    before = _in_order(kept, lexicon.BEFORE_COLOR)
    colors = sorted(kept & set(lexicon.COLORS.values()), key=lambda word: (-votes[word], word))
    after = _in_order(kept, lexicon.AFTER_COLOR)
    return " ".join(filter(None, [*before, " and ".join(colors), *after, noun]))


def _in_order(kept: set[str], table: dict[str, str]) -> list[str]:
    return [word for word in dict.fromkeys(table.values()) if word in kept]


def _winner(votes: Iterable[str | None], of: int, agreement: float) -> str | None:
    """Return the word with the most votes if it has enough of them; the first in the alphabet of several."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return None
    word, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return word if _holds(count, of, agreement) else None


def _holds(votes: int, of: int, agreement: float) -> bool:
    return votes > agreement * of or (votes == of and of > 0)


def _with_article(phrase: str) -> str:
    noun = phrase.rpartition(" ")[2]
    return phrase if noun in lexicon.PLURAL else f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"
