"""Parse a caption into person, clothes, bags, hair and circumstances.

Captions are short and of few constructions ("a woman in a red shirt and blue jeans walking down the street"), so noun
phrases are found by word lists: a noun takes the colors and other listed words before it, back to the nearest article,
preposition or verb. A garment's noun right before another noun describes that one ("dress shoes"), and hair is one
item, however often it is mentioned. Unknown words are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from diffreid_lightning.captioning import lexicon
from diffreid_lightning.captioning.lexicon import Kind

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[,.;:]")
_LONGEST = 7  # words in an entry of the tables
_GAP = 3  # words allowed between an article and its noun


@dataclass(frozen=True)
class Item:
    """Garment, bag or hair in a caption.

    Args:
        kind: of the item.
        noun: a value of ``kind.nouns``.
        modifiers: the words before it, by the tables' values.
    """

    kind: Kind
    noun: str
    modifiers: frozenset[str]


@dataclass(frozen=True)
class ParsedCaption:
    """Content of a caption.

    Args:
        person: the word for the person, such as "woman"; None if there is none.
        age: "young", "old" or None.
        items: garments, bags and hair.
        circumstances: view, pose, place and light in the caption's own words; may be "".
    """

    person: str | None
    age: str | None
    items: tuple[Item, ...]
    circumstances: str


_NOUNS = {spoken: (kind, noun) for kind in lexicon.KINDS for spoken, noun in kind.nouns.items()}
_GARMENTS = {spoken for kinds in lexicon.WORN for kind in kinds for spoken in kind.nouns}
_ATTRIBUTES = {**lexicon.COLORS, **lexicon.BEFORE_COLOR, **lexicon.AFTER_COLOR}
# Words that end a noun phrase, and those among them that leave a "no" or "not" before them in force.
_ENDS = lexicon.STOPS - {"and"}
_NEGATED_TOO = lexicon.ARTICLES | {"with", "wearing", "carrying", "holding", "having", "or"}
# What stands in a list before its "or": "without a hat, a scarf or glasses".
_LISTED = lexicon.ARTICLES | _NOUNS.keys() | _ATTRIBUTES.keys() | {","}


class _Reader:
    """Parser that goes once over a caption's words."""

    def __init__(self, caption: str) -> None:
        self.text = caption.lower().replace("\u2019", "'")
        found = list(_TOKEN.finditer(self.text))
        self.tokens = [match.group() for match in found]
        self.spans = [match.span() for match in found]
        self.person: str | None = None
        self.age: str | None = None
        self.items: list[Item] = []
        self.shown: list[tuple[int, int]] = []  # tokens from, to
        self.pending: list[str] = []  # modifiers before their noun
        self.outfit = False  # they follow "in" or "wearing": without a noun they describe all clothes
        self.negated = False
        self.after = 0  # token after the phrase that is taken
        self.hair: int | None = None  # the person's among the items

    def read(self) -> ParsedCaption:
        place = 0
        while place < len(self.tokens):
            place = self._step(place)
        self._drop_pending()
        return ParsedCaption(self.person, self.age, tuple(self.items), self._circumstances())

    def _step(self, place: int) -> int:
        """Parse the phrase at a token; return the start of the next one."""
        end = self._circumstance(place)
        if end:
            self._drop_pending()
            if self._at(place - 1) not in lexicon.NOT:
                self.shown.append((place, end))
            return end
        for table, take in (
            (_NOUNS, self._take_noun),
            (lexicon.HAIRSTYLES, self._take_hairstyle),
            (_ATTRIBUTES, self._take_attribute),
            (lexicon.PERSONS, self._take_person),
        ):
            end = self._longest(place, table)
            if end:
                self.after = end
                take(" ".join(self.tokens[place:end]))
                return end
        token = self.tokens[place]
        if token in lexicon.AGES and self._at(place - 1) not in ("year", "years"):  # "a 20 year old woman"
            self.age = self.age or lexicon.AGES[token]
        elif token in lexicon.NOT:
            self._drop_pending()
            self.negated = True
        elif token in ",.;:":
            self.negated &= self._in_list(place)
            if not self._longest(place + 1, _ATTRIBUTES):
                self._drop_pending()
        elif token in _ENDS:
            self._drop_pending()
            self.outfit = token in ("in", "wearing")
            self.negated &= token in _NEGATED_TOO
        return place + 1

    def _take_noun(self, spoken: str) -> None:
        if spoken in _GARMENTS and self._longest(self.after, _NOUNS):
            return
        self._add(*_NOUNS[spoken])
        self.pending, self.outfit = [], False
        self.negated &= self._in_list(self.after)

    def _take_hairstyle(self, spoken: str) -> None:
        self.pending.append(lexicon.HAIRSTYLES[spoken])
        self._take_noun("hair")

    def _take_attribute(self, spoken: str) -> None:
        self.pending.append(_ATTRIBUTES[spoken])

    def _take_person(self, spoken: str) -> None:
        self.hair = self.hair if self.person is None else None
        self.person = self.person or lexicon.PERSONS[spoken]
        if {"blond", "brown"} & set(self.pending):  # "a blonde woman"
            self._add(lexicon.HAIR, "hair")
        self.pending, self.outfit, self.negated = [], False, False

    def _add(self, kind: Kind, noun: str) -> None:
        if self.negated:
            return
        item = Item(kind, noun, frozenset(self.pending))
        if kind is lexicon.HAIR and self.hair is not None and self.items[self.hair].noun == noun:
            self.items[self.hair] = replace(item, modifiers=item.modifiers | self.items[self.hair].modifiers)
            return
        if kind is lexicon.HAIR:
            self.hair = len(self.items)
        self.items.append(item)

    def _drop_pending(self) -> None:
        """Drop modifiers without a noun; in "a woman in red" the color applies to all clothes."""
        colors = [word for word in self.pending if word in lexicon.COLORS.values()]
        if self.outfit and colors:
            self._add(lexicon.CLOTHES, "clothes")
        self.pending, self.outfit = [], False

    def _circumstance(self, place: int) -> int:
        """Return the end of the view, light, pose, action or place that begins here; 0 if there is none."""
        start = place + 1 if self.tokens[place] in lexicon.SEEN else place
        end = self._longest(start, lexicon.VIEWS)
        if end or start != place:
            return end
        end = self._longest(place, lexicon.LIGHTS)
        if end:
            return end
        token = self.tokens[place]
        if token in lexicon.DOINGS:
            begin = place + 2 if self._at(place + 1) in ("at", "on", "with") else place + 1
            end = self._noun_phrase(begin, lexicon.OBJECTS)
            if end:
                return end
        if token in lexicon.POSES:
            end = place + 2 if self._at(place + 1) in lexicon.MANNERS and not self._place(place + 1) else place + 1
            return self._longest(end, lexicon.POSTURES) or end
        return self._place(place)

    def _place(self, place: int) -> int:
        token, after = self._at(place), self._at(place + 1)
        if token == "next" and after == "to":
            return self._noun_phrase(place + 2, lexicon.PLACES)
        if token == "in" and after == "front" and self._at(place + 2) == "of":
            return self._noun_phrase(place + 3, lexicon.PLACES)
        return self._noun_phrase(place + 1, lexicon.PLACES) if token in lexicon.PREPOSITIONS else 0

    def _noun_phrase(self, place: int, nouns: Collection[str]) -> int:
        """Return the end of an optional article, a few plain words and one of the nouns (or two: "parking lot")."""
        place += self._at(place) in lexicon.ARTICLES
        for end in range(place, min(place + _GAP + 1, len(self.tokens))):
            token = self.tokens[end]
            if after := self._longest(end, nouns):
                return self._longest(after, nouns) or after
            if token in lexicon.STOPS or token in ",.;:" or token in lexicon.POSES or self._longest(end, _NOUNS):
                return 0
        return 0

    def _in_list(self, place: int) -> bool:
        """Return true if an "or" ends the list that goes on here."""
        while place < len(self.tokens) and self.tokens[place] not in ("or", "nor"):
            end = self._longest(place, _LISTED)
            if not end:
                return False
            place = end
        return place < len(self.tokens)

    def _at(self, place: int) -> str:
        return self.tokens[place] if 0 <= place < len(self.tokens) else ""

    def _longest(self, place: int, table: Mapping[str, object] | Collection[str]) -> int:
        """Return the end of the longest table entry that begins here; 0 if there is none."""
        for end in range(min(place + _LONGEST, len(self.tokens)), place, -1):
            if " ".join(self.tokens[place:end]) in table:
                return end
        return 0

    def _circumstances(self) -> str:
        return ", ".join(dict.fromkeys(self._join_spans()))

    def _join_spans(self) -> Iterator[str]:
        """Join adjacent spans: "walking" and "down the street"."""
        begun: tuple[int, int] | None = None
        for start, end in ((self.spans[first][0], self.spans[last - 1][1]) for first, last in self.shown):
            if begun and not self.text[begun[1] : start].strip():
                begun = (begun[0], end)
                continue
            if begun:
                yield self._slice(begun)
            begun = (start, end)
        if begun:
            yield self._slice(begun)

    def _slice(self, span: tuple[int, int]) -> str:
        return " ".join(self.text[slice(*span)].split())


def read_caption(caption: str) -> ParsedCaption:
    """Parse a caption.

    Args:
        caption: an English sentence or list of words, in any case.
    """
    return _Reader(caption).read()
