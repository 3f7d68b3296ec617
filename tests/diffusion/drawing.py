"""What generation needs in tests: a personalised model made by stock calls, and a vocabulary of few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from diffreid_lightning.diffusion.checkpoint_source import weights_hash
from diffreid_lightning.diffusion.folder import load_pipeline

TEMPLATE = "{identity} {description}, {circumstances}"  # short: the tests' tokenizer takes 24 tokens
NAMES = [f"<toy-{pid:04d}>" for pid in (1, 2, 3, 4)]


def write_vocabulary(file: Path) -> Path:
    """Write a vocabulary in the words of the tests' tokenizer."""
    file.write_text("view: [seen from behind, walking]\nlight: [at night, '', in a blue coat]\n")
    return file


def write_personalised_model(folder: Path, base: Path, people: int = 4, vectors: int = 1) -> Path:
    """Write a random LoRA and random tokens for people, four at most, the LoRA with the stock saver."""
    pipeline: Any = load_pipeline(base)
    torch.manual_seed(1)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipeline.save_lora_weights(folder / "lora", unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    shape = (people,) if vectors == 1 else (people, vectors)
    tensors = {"tokens": torch.randn(*shape, 16)}
    if hasattr(pipeline, "text_encoder_2"):
        tensors["tokens_2"] = torch.randn(*shape, 24)
    save_file(tensors, folder / "tokens.safetensors", metadata={"names": json.dumps(NAMES[:people])})
    known = [
        {"name": name, "source": "toy", "partition": "train", "pid": pid, "description": f"a man in {pid}"}
        for pid, name in enumerate(NAMES[:people], start=1)
    ]
    note = {"base": {"model": str(base), "weights": weights_hash(base)}, "template": TEMPLATE, "identities": known}
    (folder / "identities.json").write_text(json.dumps(note))
    return folder
