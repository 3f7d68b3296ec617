"""Captions by an image-to-text model of the transformers library, by default BLIP-2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from diffreid_lightning.captioning.base import Captioner, hash_files
from diffreid_lightning.errors import UserError, check_range, first_line, shorten
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import describe_existing
from diffreid_lightning.storage.hub import hub_file, is_hub_id

DType = Literal["auto", "float32", "float16", "bfloat16"]

CONFIG = "config.json"
_NEEDED = f"{CONFIG}, *.safetensors, preprocessor_config.json or processor_config.json, and a tokenizer's files"
_QUESTION = "Describe the person's clothes, bag and hair in one sentence."
#: default prompts of models that need one, from their authors' tasks
_TASKS = {
    "instructblip": _QUESTION,
    "paligemma": "caption en",
    "florence2": "<CAPTION>",
    "kosmos-2": "An image of",
}
_ARTICLE = re.compile(r"^(?:an?|the) ")
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


class TransformersCaptioner(Captioner):
    """Caption person crops with a pretrained model.

    Any model that ``AutoModelForImageTextToText`` loads from safetensors works: BLIP-2 (Li et al., arXiv 2301.12597),
    BLIP, GIT, an encoder-decoder, or a chat model with its template. Decoding is greedy or by beam search, so the same
    image gets the same caption on the same kind of device.

    Args:
        model: a hub id (``owner/name``, optionally ``@revision``) or the path of a folder that holds a copy.
        prompt: begin of the caption ("a photo of"; it is removed again), a question ("Question: what does the person
            wear? Answer:"), or the message to a chat model. "" is no prompt; models that need one, as InstructBLIP and
            PaliGemma, are then asked for a description. A mapping asks several questions: its values are the phrases
            ("seen from the {}") that take the answers, and are joined by commas.
        max_new_tokens: length limit of an answer in tokens.
        num_beams: width of the beam search; 1 is greedy.
        dtype: data type of the weights; ``auto`` keeps the stored one.
        device_map: of transformers (``auto`` spreads a large model over all devices of this process); None uses the
            trainer's device.

    Raises:
        UserError: there is no such model, or it does not caption images.
    """

    def __init__(
        self,
        model: str = "Salesforce/blip2-opt-2.7b",
        prompt: str | dict[str, str] = "",
        max_new_tokens: int = 40,
        num_beams: int = 1,
        dtype: DType = "auto",
        device_map: str | dict[str, int | str] | None = None,
    ) -> None:
        super().__init__()
        check_range("model.max_new_tokens", max_new_tokens, 1, 4096)
        check_range("model.num_beams", num_beams, 1, 64)
        self.max_new_tokens = max_new_tokens
        self.num_beams = num_beams
        self.dtype_name = dtype
        self._folder = _locate(model)
        try:
            loaded, report = AutoModelForImageTextToText.from_pretrained(
                self._folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                device_map=device_map,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            self.processor, self.tokenizer = _load_processors(self._folder)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a configuration with values of the wrong type can raise anything
            raise _cannot_caption(model, self._folder, error) from error
        lacking = sorted(report["missing_keys"])
        if lacking:
            raise _cannot_caption(model, self._folder, ValueError(f"the weights lack {shorten(lacking, 4)}"))
        asked = {prompt: "{}"} if isinstance(prompt, str) else dict(prompt) or {"": "{}"}
        if any(asked) and not hasattr(self.processor, "tokenizer"):
            raise UserError(
                f"The captioner {model} takes no prompt.",
                found=f"{type(loaded).__name__}, which takes only images",
                remedy="leave model.prompt empty, or choose a model that takes text as well, such as BLIP-2",
            )
        self.phrases = {
            question or self._own_task(loaded.config.model_type): phrase for question, phrase in asked.items()
        }
        self.tokenizer.padding_side = "left"  # generation continues at the end of the prompt
        loaded.eval().requires_grad_(False)
        # The trainer must not move a model that transformers has placed, so it is not registered then.
        self.model = None if device_map is not None else loaded
        self._placed = [loaded]

    def _own_task(self, model_type: str) -> str:
        """Return the default prompt of a model; may be ""."""
        if getattr(self.processor, "chat_template", None):
            return _QUESTION
        return _TASKS.get(model_type, "")

    @property
    def cache_key(self) -> dict[str, Any]:
        """Weights and settings."""
        return {
            **super().cache_key,
            "weights": hash_files({file for pattern in _PATTERNS for file in self._folder.glob(pattern)}),
            "prompt": [[question, phrase] for question, phrase in self.phrases.items()],  # asked in this order
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "dtype": self.dtype_name,
        }

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Caption images as one batch; what is answered twice is said once."""
        answers = zip(*(self._answer(images, question) for question in self.phrases), strict=True)
        filled = (map(_fill, self.phrases.values(), said) for said in answers)
        return [", ".join(dict.fromkeys(filter(None, parts))) for parts in filled]

    def _answer(self, images: list[Image.Image], prompt: str) -> list[str]:
        """Return the model's answer to a prompt for each image."""
        model = self._placed[0]
        try:
            inputs = self._inputs(images, prompt).to(model.device)
            for name, value in inputs.items():
                if value.is_floating_point():
                    inputs[name] = value.to(model.dtype)
            written = model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, do_sample=False
            )
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
            raise UserError(
                f"{type(model).__name__} does not caption under the prompt {prompt!r}.",
                looked_for="an answer to images and prompt",
                found=f"{type(error).__name__}: {first_line(error)}",
                remedy="give --model.prompt in the form of this model's card, or choose another model, such as BLIP-2",
            ) from error
        given = inputs.get("input_ids")
        if given is not None and written.shape[1] >= given.shape[1]:
            repeated = (written[:, : given.shape[1]] == given).all()
            written = written[:, given.shape[1] :] if repeated else written
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [_clean(text, prompt) for text in texts]

    def _inputs(self, images: list[Image.Image], prompt: str) -> Any:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return self.processor(images=images, text=[text] * len(images), return_tensors="pt", padding=True)
        if prompt:
            return self.processor(images=images, text=[prompt] * len(images), return_tensors="pt", padding=True)
        return self.processor(images=images, return_tensors="pt")


def _fill(phrase: str, answer: str) -> str:
    """Put an answer into its phrase, without an article where the phrase has one; "" for no answer."""
    return phrase.replace("{}", _ARTICLE.sub("", answer) if "the {}" in phrase else answer) if answer else ""


def _clean(text: str, prompt: str) -> str:
    """Return the first line of an answer, without the prompt that some models repeat."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    line = lines[0] if lines else ""
    start = " ".join(prompt.split())
    return line[len(start) :].lstrip(" ,:") if start and line.lower().startswith(start.lower()) else line


def _locate(model: str) -> Path:
    """Return the folder of a model; download a hub model that is not cached."""
    folder = user_path(model)
    if (folder / CONFIG).is_file():
        return folder
    remedy = (
        f"give the folder of a local copy ({_NEEDED}) as --model.model, or fetch {model} once where there is a "
        "network; ColorCaptioner needs no download"
    )
    if folder.exists() or not is_hub_id(model):
        raise UserError(
            f"There is no captioner at {model}", looked_for=_NEEDED, found=describe_existing(folder), remedy=remedy
        )
    hub_file(model, CONFIG, remedy=remedy)  # without a network this fails fast, with the reason
    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The captioner {model} cannot be downloaded from the hub.",
            looked_for=_NEEDED,
            found=first_line(error),
            remedy=remedy,
        ) from error


def _load_processors(folder: Path) -> tuple[Any, Any]:
    """Return the processor of images (and text) and the tokenizer."""
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
        return processor, processor.tokenizer
    # An encoder-decoder has no processor: AutoProcessor returns only one of its two parts.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False), tokenizer


def _cannot_caption(model: str, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"The captioner {model} cannot be loaded.",
        looked_for=f"{_NEEDED} of an image-to-text model, in {folder}",
        found=f"{shorten(sorted(entry.name for entry in folder.iterdir()))}; {first_line(error)}",
        remedy="choose another model or copy this one again; weights must be in safetensors",
    )
