"""Write configurations of the published Stable Diffusion families, which single-file checkpoints lack."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tokenizers.pre_tokenizers import ByteLevel

Family = Literal["sd1", "sd2", "sdxl"]

_START, _END = "<|startoftext|>", "<|endoftext|>"
_PADS: dict[Family, dict[str, str]] = {
    "sd1": {"tokenizer": _END},
    "sd2": {"tokenizer": "!"},
    "sdxl": {"tokenizer": _END, "tokenizer_2": "!"},
}
_FILES = files(__package__).joinpath("published")


def write_configs(family: Family, prediction_type: str, zero_snr: bool, folder: Path) -> None:
    """Write the folder of a family's pipeline, without its weights.

    Args:
        family: of checkpoints.
        prediction_type: ``epsilon`` or ``v_prediction``.
        zero_snr: whether the last timestep is pure noise (Lin et al., arXiv 2305.08891).
        folder: an empty folder.
    """
    published = json.loads(_FILES.joinpath("configs.json").read_text(encoding="utf-8"))
    for part, config in published[family].items():
        name = {"": "model_index.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
        if part == "scheduler":
            config = {**(published["zero_snr"] if zero_snr else config), "prediction_type": prediction_type}
        if part == "" and zero_snr:
            config = {**config, "scheduler": ["diffusers", "DDIMScheduler"]}
        (folder / part).mkdir(exist_ok=True)
        (folder / part / name).write_text(json.dumps(config), encoding="utf-8")
    for part, pad in _PADS[family].items():
        _write_tokenizer(folder / part, pad)


def _write_tokenizer(folder: Path, pad: str) -> None:
    """Write CLIP's tokenizer: the bytes, the bytes that end a word, the merges, and two special tokens."""
    merges = gzip.decompress(_FILES.joinpath("clip_merges.txt.gz").read_bytes()).decode("utf-8")
    units = sorted(ByteLevel.alphabet())
    words = [*units, *(f"{unit}</w>" for unit in units), *(line.replace(" ", "") for line in merges.splitlines())]
    numbers = {word: number for number, word in enumerate([*words, _START, _END])}
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    folder.mkdir()
    for name, content in (
        ("vocab.json", numbers),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
