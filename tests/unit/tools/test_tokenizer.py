"""A tokenizer learnt here is a CLIP tokenizer anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from diffreid_lightning.errors import UserError
from tests.fixtures.diffusion import CAPTIONS
from tools.tiny_sd import tokenizer as subject


@pytest.mark.parametrize(
    "text", [*CAPTIONS, "a yellow raincoat and an umbrella", "zażółć gęślą jaźń", "人物", "x 3 7", "don't"]
)
def test_any_text_survives_the_round_trip(tokenizer: CLIPTokenizer, text: str) -> None:
    back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_known_words_are_one_token_each(tokenizer: CLIPTokenizer) -> None:
    words = ["a", "woman", "in", "a", "red", "coat"]
    assert tokenizer.tokenize(" ".join(words)) == [f"{word}</w>" for word in words]


def test_prompts_are_framed_padded_and_cut(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("red", padding="max_length", max_length=tokenizer.model_max_length).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[2:] == [tokenizer.eos_token_id] * 22
    long = tokenizer("red " * 100, truncation=True).input_ids
    assert (len(long), long[-1]) == (24, tokenizer.eos_token_id)


def test_merges_and_vocabulary_belong_together(tokenizer_folder: Path) -> None:
    vocabulary = json.loads((tokenizer_folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (tokenizer_folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    for first, second in (line.split(" ") for line in merges):
        assert {first, second, first + second} <= set(vocabulary)


def test_the_same_captions_give_the_same_files(tokenizer_folder: Path, tmp_path: Path) -> None:
    subject.train_tokenizer(CAPTIONS * 5, tmp_path, size=700, length=24)
    for file in tokenizer_folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_a_vocabulary_without_room_for_merges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small"):
        subject.train_tokenizer(CAPTIONS, tmp_path, size=500)


def test_the_command_says_where_no_corpus_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert subject.main([str(tmp_path), "--out", str(tmp_path / "tokenizer")]) == 2
    assert "metadata.parquet" in capsys.readouterr().err
