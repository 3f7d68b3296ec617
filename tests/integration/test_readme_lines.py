"""The lines of the README that load a personalized model without this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from diffreid_lightning.diffusion.prompt_encoding import text_encoders
from diffreid_lightning.personalization.checkpoint import load_personalized, read_tokens
from tests.fixtures.diffusion import SIZE
from tests.fixtures.drawing import write_personalized_model

README = Path(__file__).parents[2] / "README.md"


def shown_lines(base: Path, folder: Path) -> str:
    """Return the block with ``load_textual_inversion``, its paths and size replaced."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [each for each in blocks if "load_textual_inversion" in each]
    paths = re.sub(r"^base, folder = .*$", f"base, folder = {str(base)!r}, {str(folder)!r}", block, flags=re.MULTILINE)
    return paths.replace("height=256, width=128", f"height={SIZE[0]}, width={SIZE[1]}, num_inference_steps=1")


@pytest.mark.parametrize(("layout", "people", "vectors"), [("sd1", 4, 2), ("sdxl", 1, 1)])
def test_they_load_what_generation_loads(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, people: int, vectors: int
) -> None:
    folder = write_personalized_model(tmp_path, checkpoints[layout], people, vectors)
    found: dict[str, Any] = {}
    exec(shown_lines(checkpoints[layout], folder), found)
    names, _ = read_tokens(folder)
    assert found["names"] == names and len(names) == people
    ours = text_encoders(load_personalized(folder).pipeline)
    for (tokenizer, encoder), (wanted, trained) in zip(text_encoders(found["pipeline"]), ours, strict=True):
        assert [tokenizer.convert_tokens_to_ids(name) for name in names] == wanted.convert_tokens_to_ids(names)
        table, other = (each.get_input_embeddings().weight[-people * vectors :] for each in (encoder, trained))
        assert torch.equal(table, other)
