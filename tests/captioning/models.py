"""Image-to-text models of a few thousand random weights, saved as their published relatives are."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

WORDS = (
    "a",
    "an",
    "the",
    "photo",
    "of",
    "man",
    "woman",
    "person",
    "in",
    "with",
    "red",
    "blue",
    "shirt",
    "bag",
    "walking",
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDE = 28


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def build(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Draw weights large enough for different images to get different words, and special tokens unlikely."""
    torch.manual_seed(0)
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        getattr(model, "decoder", model).get_output_embeddings().weight[: len(SPECIAL)] = 0
    return model


def save_blip2(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    vision = {**SMALL, "image_size": SIDE, "patch_size": 14}
    qformer = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    text = {
        "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4, image_token_index=4
    )
    build(Blip2ForConditionalGeneration, config).save_pretrained(folder, safe_serialization=True)
    processor = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    Blip2Processor(processor, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_git(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    config = GitConfig(
        vision_config={**SMALL, "image_size": SIDE, "patch_size": 14}, vocab_size=len(tokenizer), **SMALL,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    build(GitForCausalLM, config).save_pretrained(folder, safe_serialization=True)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    GitProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def save_encoder_decoder(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    decoder = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    encoder = ViTConfig(**SMALL, image_size=SIDE, patch_size=14)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    build(VisionEncoderDecoderModel, config).save_pretrained(folder, safe_serialization=True)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_instructblip(folder: Path) -> Path:
    """Cannot begin by itself: its query network reads the prompt."""
    tokenizer = make_tokenizer()
    qformer = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    text = {
        "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = InstructBlipConfig(
        vision_config={**SMALL, "image_size": SIDE, "patch_size": 14}, qformer_config=qformer, text_config=text,
        num_query_tokens=4, image_token_index=4,
    )  # fmt: skip
    build(InstructBlipForConditionalGeneration, config).save_pretrained(folder, safe_serialization=True)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    InstructBlipProcessor(images, tokenizer, qformer_tokenizer=make_tokenizer(), num_query_tokens=4).save_pretrained(
        folder
    )
    return folder


def save_paligemma(folder: Path) -> Path:
    """Cannot begin by itself: the image stands in the prompt."""
    tokenizer = make_tokenizer()
    text = {
        **SMALL, "model_type": "gemma", "vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {**SMALL, "model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": 14, "projection_dim": 16}
    config = PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=4, projection_dim=16, hidden_size=16
    )
    build(PaliGemmaForConditionalGeneration, config).save_pretrained(folder, safe_serialization=True)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 4
    PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)
    return folder


CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


def save_chat(folder: Path) -> Path:
    """LLaVA, as an example of the models that are asked in a conversation."""
    tokenizer = make_tokenizer()
    text = {
        **SMALL, "model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {**SMALL, "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14, "projection_dim": 16}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1)
    build(LlavaForConditionalGeneration, config).save_pretrained(folder, safe_serialization=True)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
