"""A few steps of personalization on random checkpoints of each layout, and what stock diffusers makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from lightning.pytorch import Callback, Trainer, seed_everything
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffreid_lightning.backbones import Backbone, save_backbone
from diffreid_lightning.diffusion.denoising_loop import scale_latents
from diffreid_lightning.diffusion.losses import denoising_errors
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.diffusion.prompt_encoding import encode_prompts
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import find_manifest_hashes
from diffreid_lightning.personalization import add_identities
from diffreid_lightning.personalization import module as personalization_module
from diffreid_lightning.personalization.callbacks import IdentitySheets, PersonalizationExport
from diffreid_lightning.personalization.checkpoint import load_personalized, read_tokens
from diffreid_lightning.personalization.datamodule import PersonalizationBatch, PersonalizationDataModule
from diffreid_lightning.personalization.fine_tuning import CrossAttentionKV, FineTuning, FullFineTuning, TokensOnly
from diffreid_lightning.personalization.identity_features import IdentityFeatures
from diffreid_lightning.personalization.identity_tokens import FreeTokens, MappedTokens, RareWord
from diffreid_lightning.personalization.lora import LoRA
from diffreid_lightning.personalization.module import Personalization
from diffreid_lightning.personalization.prior_images import FineGrainedPrior
from diffreid_lightning.personalization.row_adamw import RowAdamW
from tests.fixtures.diffusion import SIZE

PROMPT = "a photo of <toy-0002>, a man in blue jeans"
Train = Callable[..., tuple[Personalization, Path]]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and prior images of all trainings, which are named by what they are made from."""
    return tmp_path_factory.mktemp("encoded")


def personalize(
    people: Path, base: Path, encoded: Path, folder: Path, precision: Any = "32", callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None, **arguments: Any,
) -> tuple[Personalization, Path]:  # fmt: skip
    """Personalize a checkpoint; returns the module as training left it, and the folder it was saved in."""
    seed_everything(0, verbose=False)
    settings = {"fine_tuning": LoRA(rank=4), "tokens": FreeTokens(word="man"), "warmup_steps": 0, "token_lr": 0.05}
    module = Personalization(
        model=str(base), image_size=SIZE, optimizer=lambda groups: RowAdamW(groups, lr=0.02), **settings | arguments
    )
    data = PersonalizationDataModule(
        source=str(people), model=str(base), image_size=SIZE, batch_size=4, cache_dir=str(encoded / "latents"),
        prior=FineGrainedPrior(images_per_identity=1, steps=2, cache_dir=str(encoded / "prior")),
        template="a photo of {identity}, {description}",
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, PersonalizationExport()], default_root_dir=folder,
        gradient_clip_val=1.0, accumulate_grad_batches=2, precision=precision,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return module, folder / "personalized"


@pytest.fixture
def train(people: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Personalize a checkpoint in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda base, name="run", **settings: personalize(people, base, encoded, tmp_path / name, **settings)


@pytest.fixture(scope="module")
def trained(
    people: Path, checkpoints: dict[str, Path], encoded: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Personalization, Path, Path]:
    """A personalized copy of the sd1 checkpoint, its folder, and the copy; no test changes them."""
    folder = tmp_path_factory.mktemp("trained")
    base = shutil.copytree(checkpoints["sd1"], folder / "base")
    return *personalize(people, base, encoded, folder / "run"), base


def draw(pipeline: Any, prompt: str = PROMPT) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(7))
    images = pipeline(
        prompt, height=SIZE[0], width=SIZE[1], num_inference_steps=3, latents=latents, output_type="pt"
    ).images
    return torch.as_tensor(images)


def stock(base: Path, folder: Path) -> Any:
    """The saved model as somebody without this package loads it."""
    pipeline = AutoPipelineForText2Image.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(folder / "lora")
    with safe_open(folder / "tokens.safetensors", "pt") as file:
        assert set(file.metadata()) == {"names"}, "several keys come in any order, and so in other bytes"
        names = json.loads(file.metadata()["names"])
    tensors = load_file(folder / "tokens.safetensors")
    pipeline.load_textual_inversion(tensors["tokens"], token=list(names))
    if "tokens_2" in tensors:
        pipeline.load_textual_inversion(
            tensors["tokens_2"], token=list(names), tokenizer=pipeline.tokenizer_2, text_encoder=pipeline.text_encoder_2
        )
    return pipeline


@pytest.mark.parametrize(
    ("layout", "vectors", "text_encoder"),
    [("sd1", 1, True), ("sd2", 3, False), ("sdxl", 1, True), ("sdxl", 3, False)],
)
def test_stock_diffusers_draws_the_same_image_from_what_is_saved(
    train: Train, checkpoints: dict[str, Path], layout: str, vectors: int, text_encoder: bool
) -> None:
    base = checkpoints[layout]
    tokens, lora = FreeTokens(vectors=vectors, word="man"), LoRA(rank=4, text_encoder=text_encoder)
    module, folder = train(base, tokens=tokens, fine_tuning=lora, drop_prompt=0.3, gradient_checkpointing=vectors == 3)
    ours, theirs = module.pipeline(), stock(base, folder)
    torch.testing.assert_close(draw(theirs), draw(ours), atol=2e-4, rtol=0)
    torch.testing.assert_close(draw(load_personalized(folder).pipeline), draw(theirs), atol=1e-5, rtol=0)
    assert float((draw(load_pipeline(base)) - draw(theirs)).abs().max()) > 0.01
    # Every row, each under its own name, and nothing else in the vocabulary moved.
    names, saved = read_tokens(folder)
    assert names == [f"<toy-{pid:04d}>" for pid in (1, 2, 3, 4)]
    plain = load_pipeline(base)
    for number, suffix in enumerate(["", "_2"] if layout == "sdxl" else [""]):
        tokenizer, encoder = getattr(theirs, f"tokenizer{suffix}"), getattr(theirs, f"text_encoder{suffix}")
        loaded = encoder.get_input_embeddings().weight
        before = getattr(plain, f"text_encoder{suffix}").get_input_embeddings().weight
        assert torch.equal(loaded[: len(before)], before)
        assert saved[number].shape == ((4, 16 + 8 * number) if vectors == 1 else (4, 3, 16 + 8 * number))
        trained = module.tokens.table()[number]
        for name, row, vector in zip(names, saved[number], trained, strict=True):
            assert torch.equal(row, vector)
            words = [name, *(f"{name}_{place}" for place in range(1, vectors))]
            found = loaded[torch.tensor(tokenizer.convert_tokens_to_ids(words))]
            assert torch.equal(found, row.view(vectors, -1))


@pytest.mark.parametrize(
    ("layout", "fine_tuning"), [("sdxl", FullFineTuning(text_encoder=True)), ("sd2", CrossAttentionKV())]
)
def test_other_weights_than_a_lora_are_saved_as_a_pipeline(
    train: Train, checkpoints: dict[str, Path], layout: str, fine_tuning: FineTuning
) -> None:
    base = checkpoints[layout]
    module, folder = train(base, fine_tuning=fine_tuning)
    personalized = load_personalized(folder)
    torch.testing.assert_close(draw(personalized.pipeline), draw(module.pipeline()), atol=0.02, rtol=0)
    before, after = load_pipeline(base), AutoPipelineForText2Image.from_pretrained(folder / "pipeline")
    for suffix in ["", "_2"] if layout == "sdxl" else [""]:
        one, two = (getattr(each, f"text_encoder{suffix}") for each in (before, after))
        assert torch.equal(one.get_input_embeddings().weight, two.get_input_embeddings().weight)
        assert len(getattr(before, f"tokenizer{suffix}")) == len(getattr(after, f"tokenizer{suffix}"))
        changed = any(not torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert changed == fine_tuning.text_encoder
    moved = {
        name
        for (name, a), b in zip(before.unet.named_parameters(), after.unet.parameters(), strict=True)
        if not torch.equal(a.half().float(), b.float())
    }
    keys_and_values = {name for name in moved if "attn2.to_k" in name or "attn2.to_v" in name}
    assert keys_and_values
    assert (moved == keys_and_values) == isinstance(fine_tuning, CrossAttentionKV)


def test_names_alone_can_be_trained_and_networks_alone_too(train: Train, checkpoints: dict[str, Path]) -> None:
    base = checkpoints["sd1"]
    module, folder = train(base, "tokens", fine_tuning=TokensOnly())
    assert not (folder / "lora").exists()
    assert len(module.trained) == 0
    first = load_personalized(folder)
    assert float((draw(load_pipeline(base)) - draw(first.pipeline)).abs().max()) > 0.001
    module, folder = train(base, "networks", tokens=RareWord(word=None))
    vocabulary = load_pipeline(base).text_encoder.get_input_embeddings().weight
    assert torch.isin(load_file(folder / "tokens.safetensors")["tokens"], vocabulary).all()
    assert load_personalized(folder).content_hash != first.content_hash
    with pytest.raises(UserError, match="Nothing is trained"):
        train(base, "nothing", tokens=RareWord(), fine_tuning=TokensOnly())


def test_weights_that_diverged_are_not_saved(
    train: Train, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = RowAdamW.step
    values = iter([1.0, float("nan")])  # of the last step, whose loss was still finite

    def diverge(self: RowAdamW, closure: Any = None) -> Any:
        loss = step(self, closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(next(values))
        return loss

    monkeypatch.setattr(RowAdamW, "step", diverge)
    with pytest.raises(RunError, match="weights are no longer finite"):
        train(checkpoints["sd1"])
    assert not (tmp_path / "run/personalized").exists()


def test_a_loss_that_is_nan_stops_where_its_steps_are_left_out(
    train: Train, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The gradient scaler of 16-mixed leaves them out; CPUs have none."""
    seen: list[Tensor] = []

    def errors(*arguments: Tensor) -> Tensor:
        seen.append(denoising_errors(*arguments))
        return seen[-1] * (float("nan") if len(seen) == 2 else 1.0)  # noticed at the end of the epoch

    monkeypatch.setattr(personalization_module, "denoising_errors", errors)
    monkeypatch.setattr(RowAdamW, "step", lambda self, closure: closure())
    with pytest.raises(RunError, match="training loss is no longer finite"):
        train(checkpoints["sd1"])
    assert len(seen) == 4
    assert not (tmp_path / "run/personalized").exists()


class InTheMiddle(Callback):
    """Saves a checkpoint after the second batch, and keeps whether the denoiser was in training mode."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.modes: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.modes.append(pl_module.unet.training)
        if batch_idx == 1:
            trainer.save_checkpoint(self.file)


def test_an_epoch_taken_up_in_its_middle_trains_in_training_mode(
    train: Train, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    whole, rest = (InTheMiddle(tmp_path / f"{name}.ckpt") for name in ("whole", "rest"))
    train(checkpoints["sd1"], callbacks=[whole])
    train(checkpoints["sd1"], callbacks=[rest], checkpoint=whole.file)
    assert (whole.modes, rest.modes) == ([True] * 4, [True] * 2)


def test_the_folder_says_who_is_in_it_and_where_it_comes_from(
    trained: tuple[Personalization, Path, Path],
) -> None:
    module, folder, base = trained
    model = load_personalized(folder)
    assert model.template.text == "a photo of {identity}, {description}"
    assert [identity.description for identity in model.identities] == [
        "a woman in a red coat", "a man in blue jeans", "a boy", "",
    ]  # fmt: skip
    record = json.loads((folder / "provenance.json").read_text())
    assert (record["training_data"]["identities"], record["training_data"]["images"]) == (4, 16)
    assert load_personalized(folder).content_hash == model.content_hash

    # A checkpoint knows them again, whatever has become of the base model's files.
    checkpoint: dict[str, Any] = {}
    base.rename(base.with_name("gone"))
    try:
        module.on_save_checkpoint(checkpoint)
        module.on_load_checkpoint(checkpoint)
    finally:
        base.with_name("gone").rename(base)
    for key, named in (("training_rows", "other training data"), ("base_model", "another base model")):
        with pytest.raises(UserError, match=named):
            module.on_load_checkpoint({**checkpoint, key: "0"})


def test_a_folder_that_does_not_fit_says_why(
    trained: tuple[Personalization, Path, Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    _, folder, base = trained
    with pytest.raises(UserError, match="another base model"):
        load_personalized(folder, base=checkpoints["sd2"])
    load_personalized(folder, base=shutil.copytree(base, tmp_path / "moved"))
    for name, told in (("tokens.safetensors", "tensor tokens"), ("identities.json", "There is no personalized model")):
        broken = shutil.copytree(folder, tmp_path / f"without-{name}")
        (broken / name).unlink()
        with pytest.raises(UserError, match=told):
            load_personalized(broken)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "lora/pytorch_lora_weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="pytorch_lora_weights"):
        load_personalized(damaged)


def test_half_precision_wants_a_trainer_that_mixes(train: Train, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="bf16-mixed"):
        train(checkpoints["sd1"], frozen_dtype="bfloat16")


def test_timesteps_weigh_alike_unless_asked_otherwise(checkpoints: dict[str, Path]) -> None:
    """With min-SNR weights the noisier half of the default model's steps would count for a ninth."""
    assert Personalization(model=str(checkpoints["sd1"]), image_size=SIZE).snr_gamma is None


def parameters_behind_the_last_states(encoder: Any) -> list[torch.nn.Parameter]:
    """Of SDXL's first text encoder, which is read before its last layer."""
    last = f"layers.{encoder.config.num_hidden_layers - 1}."
    return [each for name, each in encoder.named_parameters() if last in name or "final_layer_norm" in name]


@pytest.mark.parametrize(
    "fine_tuning",
    [LoRA(rank=4, text_encoder=True), CrossAttentionKV(), FullFineTuning(text_encoder=True)],
    ids=["lora", "keys-and-values", "everything"],
)
def test_frozen_weights_may_be_in_half_precision(
    train: Train, checkpoints: dict[str, Path], fine_tuning: FineTuning
) -> None:
    settings = {"frozen_dtype": "bfloat16", "fine_tuning": fine_tuning}
    sheets = IdentitySheets(identities=1, images=1, steps=1)
    module, folder = train(checkpoints["sdxl"], precision="bf16-mixed", callbacks=[sheets], **settings)
    assert (folder.parent / "samples" / "epoch-0001.png").is_file()
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    pipeline = module.pipeline()
    networks = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    unread = set(map(id, parameters_behind_the_last_states(pipeline.text_encoder)))
    frozen = [each for network in networks for each in network.parameters() if not each.requires_grad]
    assert {each.dtype for each in frozen if id(each) not in unread} == {torch.bfloat16}
    if fine_tuning.text_encoder:  # processes that train together wait for a gradient of all that is trained
        with torch.autocast("cpu", torch.bfloat16):
            encoded = encode_prompts(pipeline, ["a man"], SIZE)
        assert encoded.pooled is not None
        (encoded.states.sum() + encoded.pooled.sum()).backward()
        trained = [each for network in networks[2:] for each in network.parameters() if each.requires_grad]
        assert trained and all(each.grad is not None for each in trained)
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "tokens.safetensors").values())
    if not isinstance(fine_tuning, LoRA):  # and what comes of it needs no mixing
        stock_pipeline = AutoPipelineForText2Image.from_pretrained(folder / "pipeline")
        parts = (stock_pipeline.unet, stock_pipeline.text_encoder, stock_pipeline.text_encoder_2)
        assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float32}
        assert draw(stock_pipeline, "a photo of a man").isfinite().all()


def test_people_it_was_never_trained_on_get_tokens_from_the_mapper(
    train: Train, checkpoints: dict[str, Path], people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def network(seed: int) -> IdentityFeatures:
        torch.manual_seed(seed)
        save_backbone(Backbone("test_resnet", image_size=(32, 32)), tmp_path / "network", provenance={})
        return IdentityFeatures(f"local-dir:{tmp_path / 'network'}", "timm", image_size=(32, 32))

    features = network(seed=1)
    module, folder = train(checkpoints["sdxl"], tokens=MappedTokens(features, vectors=2, hidden=8, word="man"))
    words = [str(folder), str(people), "--out", str(tmp_path / "more")]
    assert add_identities.main([*words, "--split", "gallery"]) == 0
    assert "2 new identities, <toy-test-0005> to <toy-test-0006>" in capsys.readouterr().out
    model = load_personalized(tmp_path / "more")
    assert [identity.name for identity in model.identities][4:] == ["<toy-test-0005>", "<toy-test-0006>"]
    assert model.identities[4].description == "somebody else"
    # What it was shown is noted, after what it was trained on.
    manifest = Manifest.read(people)
    theirs = manifest.filter((manifest.numpy("split") == "gallery") & (manifest.numpy("role") == "identity"))
    note, trained = (json.loads((each / "provenance.json").read_text()) for each in (tmp_path / "more", folder))
    assert note == trained | {"newcomers": [{"manifest": theirs.content_hash, "identities": 2}]}
    assert set(find_manifest_hashes(note)) == {trained["training_data"]["manifest"], theirs.content_hash}
    # They have what the network says of their images; the others have what they had.
    features.encode(theirs)
    assert isinstance(module.tokens, MappedTokens)
    with torch.no_grad():
        wanted = module.tokens.mapper(features.of_identities(theirs))
    before, after = read_tokens(folder)[1], read_tokens(tmp_path / "more")[1]
    for old, new, expected in zip(before, after, wanted, strict=True):
        assert torch.equal(new[:4], old)
        torch.testing.assert_close(new[4:], expected)
    draw(model.pipeline, "a photo of <toy-test-0006>")
    assert add_identities.main(words) == 2
    assert "already has all identities" in capsys.readouterr().err
    for wrong, told in (
        (["--split", "galery"], "did you mean 'gallery'"),
        (["--split", "gallery", "--out", str(folder / "more")], "contains the other"),
        (["--split", "gallery", "--out", str(folder.parent)], "contains the other"),
        (["--split", "gallery", "--out", str(people)], "holds something else"),
    ):
        assert add_identities.main([*words, *wrong]) == 2
        assert told in capsys.readouterr().err
    assert folder.is_dir() and not (folder / "more").exists()
    network(seed=2)
    assert add_identities.main([*words, "--split", "gallery"]) == 2
    assert "another network" in capsys.readouterr().err
    note = json.loads((folder / "mapper.json").read_text())
    for damaged in ({}, {**note["features"], "weights": None}):
        (folder / "mapper.json").write_text(json.dumps({**note, "features": damaged}))
        assert add_identities.main([*words, "--split", "gallery"]) == 2
        assert "mapper.json" in capsys.readouterr().err
    (folder / "mapper.json").unlink()
    assert add_identities.main([*words, "--split", "gallery"]) == 2
    assert "has only the identities" in capsys.readouterr().err
    (folder / "identities.json").write_text("{")
    assert add_identities.main([*words, "--split", "gallery"]) == 2
    assert "is damaged" in capsys.readouterr().err
    (folder / "identities.json").unlink()
    assert add_identities.main([*words, "--split", "gallery"]) == 2
    assert "no personalized model at" in capsys.readouterr().err


def test_latents_are_normalized_as_the_autoencoder_asks(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Personalization(model=str(checkpoints["sd1"]), image_size=SIZE)
    module._held.pipeline.vae.register_to_config(latents_mean=[1, 2, 3, 4], latents_std=[2, 2, 4, 4])
    mean = torch.arange(8.0).view(1, 4, 2, 1)
    batch = PersonalizationBatch(
        torch.cat([mean, torch.full_like(mean, -99)], dim=1), [""], torch.empty(0, 4, 2, 1), []
    )
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.testing.assert_close(module._latents(batch), scale_latents(module._held.pipeline.vae, mean))
