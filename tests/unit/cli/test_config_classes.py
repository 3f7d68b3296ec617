"""Settings as words that the parser reads."""

from __future__ import annotations

import sys

import yaml

from diffreid_lightning.cli.config_classes import read_word, write_word


def test_every_character_comes_back_from_a_written_word() -> None:
    characters = [chr(number) for number in range(sys.maxunicode + 1) if not 0xD800 <= number < 0xE000]
    for start in range(0, len(characters), 1 << 14):
        text = " ".join(characters[start : start + (1 << 14)])
        assert read_word(write_word({"title": text})) == {"title": text}


def test_libyaml_reads_it_as_well() -> None:
    text = "a \x85 b \u2028 c \ufeff \x7f d \U0001f600 \U00020bb7"
    assert yaml.load(write_word([text]), Loader=yaml.CSafeLoader) == [text]
