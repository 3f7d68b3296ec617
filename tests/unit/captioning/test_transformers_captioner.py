"""Pretrained captioners, on tiny random models saved to disk: the words are those that transformers itself writes."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from diffreid_lightning.captioning.caption_parser import read_caption
from diffreid_lightning.captioning.transformers_captioner import TransformersCaptioner, _fill
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.caption_models import (
    SMALL,
    save_blip2,
    save_chat,
    save_encoder_decoder,
    save_git,
    save_instructblip,
    save_paligemma,
)
from tests.fixtures.dataset_layouts import write_market1501

SHIPPED = Path(__file__).parents[3] / "configs/stages/caption_blip2.yaml"

Command = Callable[..., int]


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2"))


@pytest.fixture
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)
    plain = [((128, 64), "black"), ((31, 17), "red"), ((9, 5), "white"), ((256, 128), "blue")]
    return [Image.fromarray(noise), *(Image.new("RGB", size[::-1], color) for size, color in plain)]


@functools.cache
def loaded(folder: Path) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    return Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)


@torch.inference_mode()
def by_hand(folder: Path, image: Image.Image, prompt: str) -> str:
    model, processor = loaded(folder)
    inputs = processor(images=image, text=prompt or None, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.decode(tokens[0], skip_special_tokens=True).strip()


def test_answers_to_several_questions_make_one_caption(blip2: Path, images: list[Image.Image]) -> None:
    questions = {"Question: what is worn? Answer:": "wearing {}", "a photo of": "{}"}
    captioner = TransformersCaptioner(str(blip2), prompt=questions, max_new_tokens=6)
    with torch.inference_mode():
        captions = captioner.captions(images)
    for image, caption in zip(images, captions, strict=True):
        first, second = (by_hand(blip2, image, question).removeprefix(question).strip() for question in questions)
        assert caption == ", ".join(filter(None, [f"wearing {first}" if first else "", second]))
    assert captioner.cache_key["prompt"] == [list(pair) for pair in questions.items()], "in their order"


@pytest.mark.parametrize(
    ("side", "place", "around"),
    [
        ("back", "street", "seen from the back, in the street"),
        ("from behind", "on the sidewalk", "from behind, on the sidewalk"),
        ("the side", "a train station", "seen from the side, in the train station"),
    ],
)
def test_short_answers_to_the_shipped_questions_are_read(side: str, place: str, around: str) -> None:
    phrases = list(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["model"]["init_args"]["prompt"].values())
    answers = ["man", "a black jacket", "blue jeans", "a backpack", side, place]
    read = read_caption(", ".join(map(_fill, phrases, answers)))
    assert (read.person, [(item.noun, set(item.modifiers)) for item in read.items]) == (
        "man", [("jacket", {"black"}), ("jeans", {"blue"}), ("backpack", set())],
    )  # fmt: skip
    assert read.circumstances == around


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_a_batch_gets_the_words_that_transformers_writes_for_each_image(
    prompt: str, blip2: Path, images: list[Image.Image]
) -> None:
    expected = [by_hand(blip2, image, prompt).removeprefix(prompt).strip() for image in images]
    assert len(set(expected)) > 1 and all(expected), "the test model must tell images apart"
    captioner = TransformersCaptioner(str(blip2), prompt=prompt, max_new_tokens=6)
    with torch.inference_mode():
        assert captioner.captions(images) == expected
        assert captioner.captions(images[2:3]) == expected[2:3]


@pytest.mark.parametrize("save", [save_git, save_encoder_decoder, save_chat])
def test_other_image_to_text_models_load(
    save: Callable[[Path], Path], tmp_path: Path, images: list[Image.Image]
) -> None:
    captioner = TransformersCaptioner(str(save(tmp_path)), max_new_tokens=6)
    with torch.inference_mode():
        captions = captioner.captions(images)
        assert captions == [captioner.captions([image])[0] for image in images]
    assert len(captions) == len(images) and all(captions)


@pytest.mark.parametrize("save", [save_instructblip, save_paligemma])
def test_models_that_cannot_begin_by_themselves_are_asked(
    save: Callable[[Path], Path], tmp_path: Path, images: list[Image.Image]
) -> None:
    folder = str(save(tmp_path))
    captioner = TransformersCaptioner(folder, max_new_tokens=6)
    with torch.inference_mode():
        captions = captioner.captions(images)
        assert captions == [captioner.captions([image])[0] for image in images]
    assert all(captioner.phrases), "a description is asked for"
    assert captioner.cache_key["prompt"] == [list(pair) for pair in captioner.phrases.items()], (
        "what was asked is noted"
    )
    captioner.phrases = {"": "{}"}
    with pytest.raises(UserError, match=r"--model\.prompt"), torch.inference_mode():
        captioner.captions(images)


@pytest.mark.parametrize(
    "settings",
    [
        {"text_config": {"num_attention_heads": 0, "model_type": "opt"}},
        {"vision_config": {**SMALL, "patch_size": 0}},
        {"text_config": "opt"},
        {"num_query_tokens": "four"},
        {"vision_config": {**SMALL, "num_hidden_layers": 3, "image_size": 28, "patch_size": 14}},
        {"model_type": None},
    ],
)
def test_configurations_with_values_that_cannot_be_are_refused(
    blip2: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = shutil.copytree(blip2, tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersCaptioner(str(folder))


@pytest.mark.parametrize("file", ["model.safetensors", "processor_config.json", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(blip2: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(blip2, tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersCaptioner(str(folder))


def test_weights_that_are_missing_are_not_drawn(blip2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blip2, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(tensors) if "qformer" in name)
    tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="the weights lack"):
        TransformersCaptioner(str(folder))


def test_half_precision_and_placement_by_transformers(blip2: Path, images: list[Image.Image]) -> None:
    half = TransformersCaptioner(str(blip2), dtype="bfloat16", max_new_tokens=6)
    assert next(half.parameters()).dtype == torch.bfloat16
    placed = TransformersCaptioner(str(blip2), device_map="cpu", max_new_tokens=6)
    assert not list(placed.parameters()), "the trainer must not move what transformers has placed"
    with torch.inference_mode():
        assert all(half.captions(images))
        assert placed.captions(images) == TransformersCaptioner(str(blip2), max_new_tokens=6).captions(images)


def test_settings_and_weights_are_other_work(blip2: Path, tmp_path: Path) -> None:
    plain = TransformersCaptioner(str(blip2)).cache_key
    assert TransformersCaptioner(str(blip2)).cache_key == plain
    assert TransformersCaptioner(str(blip2), prompt="a photo of").cache_key != plain
    other = save_blip2(tmp_path)
    model = Blip2ForConditionalGeneration.from_pretrained(other)
    with torch.no_grad():
        model.query_tokens[0, 0, 0] += 1
    model.save_pretrained(other)
    assert TransformersCaptioner(str(other)).cache_key != plain


def test_what_cannot_be_loaded_is_named(blip2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as offline:
        TransformersCaptioner("nobody/no-such-captioner")
    for text in ("config.json", "nobody/no-such-captioner", "--model.model", "*.safetensors", "ColorCaptioner"):
        assert text in str(offline.value)
    with pytest.raises(UserError, match="no captioner"):
        TransformersCaptioner(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersCaptioner(str(tmp_path))
    with pytest.raises(UserError, match="takes no prompt"):
        TransformersCaptioner(str(save_encoder_decoder(tmp_path / "pair")), prompt="a photo of")
    for file in (damaged := save_git(tmp_path / "damaged")).glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersCaptioner(str(damaged))


def test_a_folder_is_captioned_through_the_command_line(blip2: Path, tmp_path: Path, command: Command) -> None:
    market = write_market1501(tmp_path / "market1501", train_ids=(2, 7))
    broken = sorted((market / "bounding_box_train").glob("0007*"))[0]
    broken.write_bytes(b"")
    words = ["predict", "--config=stages/caption_blip2", f"--data.source={market}", f"--model.model={blip2}"]
    assert command(*words, "--model.dtype=float32", "--data.num_workers=0", "--trainer.accelerator=cpu") == 0
    manifest = Manifest.read(tmp_path / "runs/tour/caption")
    rows = {row["file_name"]: row for row in manifest.table.to_pylist()}
    assert {row["split"] for row in rows.values()} == {"train"}
    unread = rows.pop(f"bounding_box_train/{broken.name}")
    assert unread["caption"] is None and "0 bytes" in unread["caption_problem"]
    assert all(row["caption_problem"] is None and row["caption"] for row in rows.values())
    image = manifest.images.image(next(iter(rows)))
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["model"]["init_args"]
    settings = {**shipped, "model": str(blip2), "dtype": "float32"}
    with torch.inference_mode():
        again = TransformersCaptioner(**settings).captions([image])
    assert again == [next(iter(rows.values()))["caption"]]
