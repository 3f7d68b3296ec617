"""Vocabularies: those that are shipped, and what can be wrong with one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

import diffreid_lightning
from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.vocabulary import Vocabulary

TINY_TOKENIZER = Path(diffreid_lightning.__file__).parent / "diffusion/tiny_sd/tokenizer"


def test_the_shipped_ones_are_read() -> None:
    words = Vocabulary.read("default")
    assert list(words.phrases) == ["view", "pose", "place", "light", "camera", "carried"]
    assert words.sizes == tuple(len(phrases) for phrases in words.phrases.values())
    assert words.name([1, 0, 0, 0, 0, 0]).keys() == {"view", "pose", "place", "light"}, "an empty phrase says nothing"


def test_the_rendered_one_speaks_the_words_of_tiny_sd() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(TINY_TOKENIZER)
    words = {
        word for phrases in Vocabulary.read("rendered").phrases.values() for text in phrases for word in text.split()
    }
    split = [word for word in sorted(words) if len(tokenizer(word).input_ids) != 3]
    assert not split, "words that the captions of its training do not have"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("view: [front, back]\nview: [left, right]\n", ["cannot be read", "duplicate"]),
        ("view: [front]\n", ["'view'", "1 phrases", "two or more"]),
        ("view: [front, back, front]\n", ["'view'", "more than once", "front"]),
        ("light: [on, off]\n", ["'light'", "not text", "True", "quotes"]),
        ("view: front\n", ["by attribute", "view is 'front'"]),
        ("- front\n", ["by attribute"]),
        ("", ["no attribute"]),
        ("view: [front,\n", ["cannot be read"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        Vocabulary.read(str(file))
    for each in [*told, str(file)]:
        assert each in str(refused.value)


def test_a_missing_one_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'rendered'"):
        Vocabulary.read("renderd")
