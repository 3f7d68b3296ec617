"""Distillation of a random personalized model: its loss by the paper, its average, what it saves."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from diffusers.utils import convert_state_dict_to_kohya
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffreid_lightning.diffusion.lora_files import LORA_FILE, load_lora, merge_lora
from diffreid_lightning.diffusion.prompt_encoding import encode_prompts, unet_arguments
from diffreid_lightning.distillation import module as distillation_module
from diffreid_lightning.distillation.module import ConsistencyDistillation
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.generation.diversity import NoDiversity
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.provenance import find_manifest_hashes
from diffreid_lightning.personalization.callbacks import PersonalizationExport
from diffreid_lightning.personalization.checkpoint import TOKENS_FILE, load_personalized, read_tokens
from diffreid_lightning.personalization.datamodule import PersonalizationBatch, PersonalizationDataModule
from diffreid_lightning.personalization.lora import LoRA
from tests.fixtures.checkpoint_layouts import LAYOUTS
from tests.fixtures.diffusion import SIZE
from tests.fixtures.drawing import TEMPLATE, write_personalized_model

DECAY, SCALE, HUBER = 0.75, 3.0, 0.01


class Recorder(Callback):
    """Keeps the weights and their average before the first step and after each."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Tensor]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        parts: Any = (pl_module.trained, pl_module.target)
        self.seen.append([{name: each.detach().clone() for name, each in part.items()} for part in parts])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_batch_start(trainer, pl_module)


#: the module as training left it, the student's folder, the teacher's, and what was seen on the way
Distilled = tuple[ConsistencyDistillation, Path, Path, Recorder]


def distil(
    people: Path, base: Path, folder: Path, steps: int = -1, callbacks: tuple[Callback, ...] = (), dropout: float = 0.0
) -> tuple[ConsistencyDistillation, Path]:
    """Distill a random personalized model; returns the module as training left it, and the student's folder."""
    seed_everything(0, verbose=False)
    teacher = write_personalized_model(folder / "teacher", base)
    (teacher / "provenance.json").write_text(json.dumps({"training_data": {"manifest": "a" * 64}}))
    module = ConsistencyDistillation(
        model=str(teacher), image_size=SIZE, lora=LoRA(rank=2, layers="all", dropout=dropout), solver_steps=10,
        guidance=(SCALE, SCALE), huber=HUBER, warmup_steps=0, target_decay=DECAY,
        optimizer=lambda weights: torch.optim.AdamW(weights, lr=0.01),
    )  # fmt: skip
    data = PersonalizationDataModule(
        source=str(people), model=str(base), image_size=SIZE, batch_size=4, template=TEMPLATE,
        cache_dir=str(folder / "latents"),
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks, PersonalizationExport()],
        default_root_dir=folder / "run", precision="32",
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, folder / "run" / "distilled"


@pytest.fixture(scope="module")
def distilled(
    people: Path, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Distilled]:
    """Distill a layout once; no test changes what comes of it."""

    @functools.cache
    def of_layout(layout: str) -> Distilled:
        folder = tmp_path_factory.mktemp(layout)
        recorder = Recorder()
        return *distil(people, checkpoints[layout], folder, callbacks=(recorder,)), folder / "teacher", recorder

    return of_layout


def test_the_average_follows_the_student_and_the_teacher_stays(distilled: Callable[[str], Distilled]) -> None:
    module, _, teacher, recorder = distilled("sd1")
    assert len(recorder.seen) > 2
    expected = recorder.seen[0][1]
    for step, (weights, average) in enumerate(recorder.seen[1:]):
        kept = min(1 - 1 / (step + 1), DECAY)
        expected = {name: kept * value + (1 - kept) * weights[name] for name, value in expected.items()}
        for name, value in expected.items():
            torch.testing.assert_close(average[name], value)
    frozen = dict(merge_lora(load_personalized(teacher).pipeline).unet.named_parameters())
    left = {name.replace(".base_layer", ""): each for name, each in module.unet.named_parameters()}
    assert all(torch.equal(left[name], each) and not left[name].requires_grad for name, each in frozen.items())
    assert all(weight.requires_grad for weight in module.trained.values())


def test_a_teacher_that_is_gone_is_named(people: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    module, folder = distil(people, checkpoints["sd1"], tmp_path, steps=1)
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(RunError, match="personalized model is gone"):
        module.save(folder, {})
    assert folder.is_dir(), "the student that was written before"


def test_a_student_is_not_written_beside_another_teacher(
    people: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    module, folder = distil(people, checkpoints["sd1"], tmp_path, steps=1)
    written = (folder / TOKENS_FILE).read_bytes()
    tokens = load_file(tmp_path / "teacher" / TOKENS_FILE)
    names = {"names": json.dumps(read_tokens(tmp_path / "teacher")[0])}
    save_file({name: 2 * each for name, each in tokens.items()}, tmp_path / "teacher" / TOKENS_FILE, names)
    with pytest.raises(RunError, match="personalized model has changed"):
        module.save(folder, {})
    assert (folder / TOKENS_FILE).read_bytes() == written


class DropoutModes(Callback):
    """Keeps whether a dropout layer of the LoRA dropped, each time it was used."""

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        layer = next(each for each in pl_module.unet.modules() if isinstance(each, nn.Dropout) and each.p)
        layer.register_forward_pre_hook(lambda layer, _: self.modes.append(layer.training))


def test_the_student_is_trained_with_dropout_and_its_target_has_none(
    people: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    recorder = DropoutModes()
    distil(people, checkpoints["sd1"], tmp_path, steps=2, callbacks=(recorder,), dropout=0.5)
    assert recorder.modes == [False, True] * 2


def test_a_loss_that_is_nan_stops_the_training(
    people: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation_module, "pseudo_huber", lambda guess, target, delta: guess * float("nan"))
    with pytest.raises(RunError, match="training loss is no longer finite"):
        distil(people, checkpoints["sd1"], tmp_path)


def student_of(distilled: ConsistencyDistillation, weights: Any, folder: Path, work: Path) -> Any:
    """The denoiser with a LoRA of these weights, written and read by the stock saver and loader."""
    kept = {name: each.detach().clone() for name, each in distilled.trained.items()}
    for name, each in distilled.trained.items():
        each.data.copy_(weights[name])
    distilled.lora.save_in(distilled.pipeline(), work)
    for name, each in distilled.trained.items():
        each.data.copy_(kept[name])
    pipeline = merge_lora(load_personalized(folder).pipeline)
    load_lora(pipeline, work / "pytorch_lora_weights.safetensors")
    return merge_lora(pipeline).unet.requires_grad_(False).eval()


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_the_loss_is_the_papers(
    people: Path, checkpoints: dict[str, Path], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside algorithm 1 in plain words, on networks of their own and in the velocity's or noise's own terms."""
    module, _ = distil(people, checkpoints[layout], tmp_path, steps=1)
    folder = tmp_path / "teacher"
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    rng = torch.Generator().manual_seed(5)
    for part in (module.trained, module.target):
        for weight in part.values():
            weight.data = 0.2 * torch.randn(weight.shape, generator=rng)
    unets = [
        student_of(module, part, folder, tmp_path / str(place))
        for place, part in enumerate((module.trained, module.target))
    ]
    teacher = merge_lora(load_personalized(folder).pipeline)
    teacher.unet.eval()
    batch = PersonalizationBatch(
        torch.randn(3, 8, 16, 8, generator=rng), ["<toy-0001> a man in blue jeans", "<toy-0002>", "a boy"],
        torch.zeros(0, 4, 16, 8), [],
    )  # fmt: skip
    module.pipeline()
    draws: dict[str, Tensor] = {}
    add_noise = module.scheduler.add_noise

    def noted(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        draws.update(latents=latents, noise=noise, start=timesteps)
        return add_noise(latents, noise, timesteps)

    monkeypatch.setattr(module.scheduler, "add_noise", noted)
    loss = module.training_step(batch, 0)
    monkeypatch.undo()

    alphas, kind = module.scheduler.alphas_cumprod.double(), module.scheduler.config.prediction_type
    words = encode_prompts(teacher, batch.prompts, SIZE)
    empty = module._held.cached_prompts.unconditional(3)

    def split(unet: Any, noisy: Tensor, at: Tensor, conditioning: Any) -> tuple[Tensor, Tensor]:
        answer = unet(noisy, at, **unet_arguments(conditioning)).sample
        alpha, sigma = alphas[at].sqrt().view(-1, 1, 1, 1), (1 - alphas[at]).sqrt().view(-1, 1, 1, 1)
        noise = answer if kind == "epsilon" else sigma * noisy + alpha * answer
        return (noisy - sigma * noise) / alpha if kind == "epsilon" else alpha * noisy - sigma * answer, noise

    with torch.no_grad():
        start = draws["start"]
        noisy = alphas[start].sqrt().view(-1, 1, 1, 1) * draws["latents"]
        noisy = (noisy + (1 - alphas[start]).sqrt().view(-1, 1, 1, 1) * draws["noise"]).float()
        end = (start - 100).clamp(min=0)
        assert set((start + 1).tolist()) <= set(range(100, 1001, 100))
        with_words, without = split(teacher.unet, noisy, start, words), split(teacher.unet, noisy, start, empty)
        origin, noise = (bare + SCALE * (full - bare) for full, bare in zip(with_words, without, strict=True))
        earlier = (
            alphas[end].sqrt().view(-1, 1, 1, 1) * origin + (1 - alphas[end]).sqrt().view(-1, 1, 1, 1) * noise
        ).float()
        mapped = []
        for unet, latents, at in ((unets[0], noisy, start), (unets[1], earlier, end)):
            skip = (0.25 / ((10.0 * at) ** 2 + 0.25)).view(-1, 1, 1, 1)
            out = (10.0 * at / ((10.0 * at) ** 2 + 0.25) ** 0.5).view(-1, 1, 1, 1)
            mapped.append(skip * latents + out * split(unet, latents, at, words)[0])
        expected = (((mapped[0] - mapped[1]) ** 2 + HUBER**2).sqrt() - HUBER).mean()
    torch.testing.assert_close(loss.detach().double(), expected.double(), atol=1e-5, rtol=1e-4)
    loss.backward()
    assert all(weight.grad is not None for weight in module.trained.values())
    assert all(weight.grad is None for weight in module.target.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stock_diffusers_stacks_both_loras_to_what_generation_loads(
    distilled: Callable[[str], Distilled], checkpoints: dict[str, Path], layout: str
) -> None:
    module, folder, written, _ = distilled(layout)
    stock: Any = AutoPipelineForText2Image.from_pretrained(checkpoints[layout], safety_checker=None)
    stock.load_lora_weights(folder / "lora", adapter_name="people")
    stock.load_lora_weights(folder / "student", adapter_name="student")
    stock.set_adapters(["people", "student"])
    stock.fuse_lora()
    stock.unload_lora_weights()
    ours = GenerationModule(
        str(folder), image_size=SIZE, scheduler="LCMScheduler", steps=2, guidance=1.0, diversity=NoDiversity()
    )
    assert ours.evaluations == 2
    teacher = GenerationModule(str(written), image_size=SIZE, steps=2)
    assert ours.generator != teacher.generator
    weights, moved = stock.unet.state_dict(), 0.0
    for name, weight in ours.unet.state_dict().items():
        torch.testing.assert_close(weight, weights[name], atol=1e-6, rtol=1e-4)
        moved = max(moved, float((weight - teacher.unet.state_dict()[name]).abs().max()))
    assert moved > 1e-3
    noted = json.loads((folder / "provenance.json").read_text())
    assert noted["distillation"]["guidance"] == [SCALE, SCALE]
    assert len(set(find_manifest_hashes(noted))) == 2 and "a" * 64 in ours.trained_on
    assert copy.deepcopy(module)._held is module._held, "averages of the module share the frozen networks"


def test_a_checkpoint_belongs_to_its_images_and_to_its_teacher(distilled: Callable[[str], Distilled]) -> None:
    module, *_ = distilled("sd1")
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    for key, named in (("training_rows", "other training data"), ("teacher", "distilled from another model")):
        with pytest.raises(UserError, match=named):
            module.on_load_checkpoint({**checkpoint, key: "0"})
    checkpoint.pop("teacher")
    with pytest.raises(UserError, match="distilled from another model"):
        module.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
def test_published_weights_are_stacked_on_a_personalized_model(
    checkpoints: dict[str, Path], tmp_path: Path, names: str
) -> None:
    """A LoRA in the layout of a published LCM-LoRA: of all kinds of layers, in the names of either trainer."""
    base = checkpoints["sd1"]
    people, file = write_personalized_model(tmp_path / "people", base), tmp_path / "lcm" / LORA_FILE
    made: Any = AutoPipelineForText2Image.from_pretrained(base, safety_checker=None)
    torch.manual_seed(3)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj", "ff.net.0.proj", "ff.net.2"]
    made.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False))
    made.save_lora_weights(file.parent, unet_lora_layers=get_peft_model_state_dict(made.unet))
    if names == "kohya":
        kohya = convert_state_dict_to_kohya(load_file(file))
        kohya |= {f"{name.partition('.')[0]}.alpha": torch.tensor(2.0) for name in kohya}
        save_file(kohya, file)
    stock: Any = AutoPipelineForText2Image.from_pretrained(base, safety_checker=None)
    stock.load_lora_weights(people / "lora", adapter_name="people")
    stock.load_lora_weights(file.parent, adapter_name="lcm")
    stock.set_adapters(["people", "lcm"])
    stock.fuse_lora()
    stock.unload_lora_weights()
    settings: dict[str, Any] = {"image_size": SIZE, "scheduler": "LCMScheduler", "steps": 4, "guidance": 1.0}
    alone = GenerationModule(str(people), **settings)
    for given in (file.parent, file):
        ours = GenerationModule(str(people), adapters=[str(given)], **settings)
        assert ours.generator not in (alone.generator, None)
        for name, weight in ours.unet.state_dict().items():
            torch.testing.assert_close(weight, stock.unet.state_dict()[name], atol=1e-6, rtol=1e-4)
        assert any(not torch.equal(one, two) for one, two in zip(ours.parameters(), alone.parameters(), strict=True))
    with pytest.raises(UserError, match="A LoRA cannot be used"):
        GenerationModule(str(checkpoints["sdxl"]), adapters=[str(file)], **settings)
    with pytest.raises(UserError, match="There is no LoRA"):
        GenerationModule(str(people), adapters=[str(people)], **settings)
    whole = load_file(file)
    save_file(whole | {"of.another.lora_A.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(UserError, match="A LoRA cannot be used"):
        GenerationModule(str(people), adapters=[str(file)], **settings)
