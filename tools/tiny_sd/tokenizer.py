"""A small CLIP tokenizer learnt from captions: ``python -m tools.tiny_sd.tokenizer --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from diffreid_lightning.errors import DiffReIDError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from tools.miniperson.captions import captions_of
from tools.miniperson.phrases import RenderedPhrases

_START, _END, _SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
# How CLIP cuts a text before it merges bytes: special tokens, English endings, words, single digits, the rest.
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(captions: Iterable[str], folder: Path, *, size: int = 1500, length: int = 64) -> CLIPTokenizer:
    """Learn a byte-pair encoding (Sennrich et al., arXiv 1508.07909) in CLIP's form and save it.

    Any text can be encoded: what the captions did not hold falls back to bytes.

    Args:
        captions: texts to learn from.
        folder: where ``vocab.json``, ``merges.txt`` and the configuration go.
        size: entries of the vocabulary at most: 512 for bytes, 2 special ones, the rest merges.
        length: tokens of a prompt, with both special ones; longer prompts are cut.

    Returns:
        The tokenizer, read back from the folder.

    Raises:
        UserError: the size leaves no room for merges.
    """
    if size < 600:
        raise UserError(f"A vocabulary of {size} entries is too small.", looked_for="at least 600")
    learner = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    units = alphabet + [unit + _SUFFIX for unit in alphabet]
    # Named beforehand, the units have fixed numbers, by which the learner breaks ties between equally frequent pairs.
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, special_tokens=units, end_of_word_suffix=_SUFFIX, show_progress=False
    )
    learner.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    vocabulary = dict.fromkeys(units + ["".join(pair) for pair in merges][: size - 2 - len(units)])
    kept = [pair for pair in merges if "".join(pair) in vocabulary]
    numbers = {unit: number for number, unit in enumerate([*vocabulary, _START, _END])}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", json.dumps(numbers, ensure_ascii=False))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in kept)]) + "\n")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **special}
    _write(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main(args: list[str] | None = None) -> int:
    """Learn a tokenizer from the captions of a rendered corpus, as training phrases them."""
    parser = argparse.ArgumentParser(description="Learn a small CLIP tokenizer from the captions of a rendered corpus.")
    parser.add_argument("manifest", type=Path, help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--size", type=int, default=1500, help="entries of the vocabulary")
    parser.add_argument("--length", type=int, default=64, help="tokens of a prompt")
    given = parser.parse_args(args)
    try:
        manifest = Manifest.read(given.manifest)
        phrased = captions_of(manifest, RenderedPhrases(), np.random.default_rng(0))
        tokenizer = train_tokenizer(phrased, given.out, size=given.size, length=given.length)
    except DiffReIDError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{len(tokenizer)} entries in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
