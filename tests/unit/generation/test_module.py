"""Generation beside stock diffusers, its independence of batches, and its cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file
from torch import Tensor

from diffreid_lightning.diffusion.denoising_loop import (
    decode_latents,
    encode_images,
    find_evaluated,
    guidance_scale,
    limit_guidance,
    scale_latents,
    unscale_latents,
)
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.generation import module
from diffreid_lightning.generation.diversity import (
    ComposedGuidance,
    ConceptDifference,
    Diversity,
    GuidanceJitter,
    ImageRequest,
    NoDiversity,
    SDEdit,
    WordsOnly,
)
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.personalization.checkpoint import load_personalized
from diffreid_lightning.personalization.prior_images import FineGrainedPrior
from tests.fixtures.checkpoint_layouts import LAYOUTS
from tests.fixtures.diffusion import SIZE
from tests.fixtures.drawing import NAMES, write_personalized_model

PROMPTS = ["a woman in a red coat", "a man in blue jeans", "a boy, at night"]
SEEDS = [3, 2**62 + 5, 11]
STEPS = 4
STRATEGIES = [
    NoDiversity(),
    WordsOnly(),
    ComposedGuidance(window=(0.25, 0.75)),
    ConceptDifference(window=(0.25, 0.75)),
    GuidanceJitter(),
    SDEdit(0.6),
]


def build(model: Path, diversity: Diversity, **settings: Any) -> GenerationModule:
    chosen = {"image_size": SIZE, "scheduler": None, "steps": STEPS, "guidance": 4.0, "channels_last": False} | settings
    return GenerationModule(str(model), diversity=diversity, **chosen).eval()


def draw(ours: GenerationModule, prompts: Sequence[Sequence[str]], seeds: Sequence[int], *rest: Tensor) -> Tensor:
    with torch.no_grad():
        return ours.draw(prompts, seeds, *rest).pictures


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def stock_images(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], guidance: float = 4.0, **more: Any
) -> Tensor:
    """Images of the stock pipeline from our latents, as bytes."""
    pipeline.set_progress_bar_config(disable=True)
    drawing = generators(seeds)
    latents = torch.stack([torch.randn(4, 16, 8, generator=each) for each in drawing])
    images = pipeline(
        list(prompts), latents=latents, num_inference_steps=STEPS, guidance_scale=guidance, height=SIZE[0],
        width=SIZE[1], generator=drawing, output_type="np", **more,
    ).images  # fmt: skip
    return torch.from_numpy((images * 255).round().astype("uint8")).permute(0, 3, 1, 2)


def stock_pipeline(folder: Path) -> Any:
    return AutoPipelineForText2Image.from_pretrained(folder, safety_checker=None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_without_diversity_it_is_the_stock_pipeline(checkpoints: dict[str, Path], layout: str, guidance: float) -> None:
    ours = draw(build(checkpoints[layout], NoDiversity(), guidance=guidance), [(p,) for p in PROMPTS], SEEDS)
    stock = stock_images(stock_pipeline(checkpoints[layout]), PROMPTS, SEEDS, guidance)
    # Matrix products round otherwise where the batch is cut otherwise, which moves a pixel by one level on some CPUs.
    assert int((ours.int() - stock.int()).abs().max()) <= 1
    assert float(ours.float().std()) > 5


@pytest.mark.usefixtures("restore_threads")
def test_an_error_in_one_part_ends_the_others(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_PART", 1)
    ours = build(checkpoints["sd1"], NoDiversity(), steps=50)
    unet, calls, together = ours.unet.forward, [], threading.Barrier(2, timeout=60)

    def forward(latents: Tensor, *arguments: Any, **more: Any) -> Any:
        calls.append(len(latents))
        if len(calls) <= 2:
            together.wait()
        if len(calls) == 5:
            raise LookupError("broken")
        return unet(latents, *arguments, **more)

    monkeypatch.setattr(ours.unet, "forward", forward)
    torch.set_num_threads(2)
    with torch.no_grad(), pytest.raises(LookupError):
        ours.draw([(prompt,) for prompt in PROMPTS], SEEDS)
    assert len(calls) < 10, "of 150"


@pytest.mark.parametrize("options", [{"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}])
def test_timesteps_that_rise_between_falling_ones_are_accepted(
    checkpoints: dict[str, Path], options: dict[str, Any]
) -> None:
    settings = {"scheduler": "KDPM2AncestralDiscreteScheduler", "scheduler_options": options, "steps": 25}
    assert build(checkpoints["sd1"], NoDiversity(), **settings).sampler.steps == 25


SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("diffusers.UniPCMultistepScheduler", {}),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DDPMScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
]


@pytest.mark.parametrize(
    ("layout", "name", "options"),
    [("sd2", *sampler) for sampler in SAMPLERS] + [("sd1", *SAMPLERS[0]), ("sd1", *SAMPLERS[4])],
)
def test_every_sampler_is_the_stock_one_the_stochastic_ones_too(
    checkpoints: dict[str, Path], layout: str, name: str, options: dict[str, Any]
) -> None:
    ours = build(checkpoints[layout], NoDiversity(), scheduler=name, scheduler_options=options)
    stock = stock_pipeline(checkpoints[layout])
    stock.scheduler = getattr(diffusers, name.rpartition(".")[2]).from_config(stock.scheduler.config, **options)
    images = draw(ours, [(prompt,) for prompt in PROMPTS], SEEDS)
    assert int((images.int() - stock_images(stock, PROMPTS, SEEDS).int()).abs().max()) <= 1
    # Once more: nothing of a batch is left in the sampler. And an image does not depend on who is drawn beside it.
    assert torch.equal(images, draw(ours, [(prompt,) for prompt in PROMPTS], SEEDS))
    alone = draw(ours, [(PROMPTS[1],)], [SEEDS[1]])[0]
    assert int((alone.int() - images[1].int()).abs().max()) <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_personalized_model_draws_what_stock_calls_load(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    folder = write_personalized_model(tmp_path, checkpoints[layout])
    ours = build(folder, NoDiversity())
    request = ImageRequest(("toy", "train", 2), 0, 5, "", {"view": "walking"}, "", "")
    assert ours.prompts(request) == ("<toy-0002> a man in 2",)
    prompts = [f"{name} a man" for name in NAMES]
    stock = stock_pipeline(checkpoints[layout])
    stock.load_lora_weights(folder / "lora")
    tokens = load_file(folder / "tokens.safetensors")
    stock.load_textual_inversion(tokens["tokens"], token=list(NAMES))
    if layout == "sdxl":
        second = {"tokenizer": stock.tokenizer_2, "text_encoder": stock.text_encoder_2}
        stock.load_textual_inversion(tokens["tokens_2"], token=list(NAMES), **second)
    images = draw(ours, [(prompt,) for prompt in prompts], [1, 1, 1, 1])
    difference = (images.int() - stock_images(stock, prompts, [1, 1, 1, 1]).int()).abs()
    assert int(difference.max()) <= 1, "the LoRA is added to the weights, which rounds elsewhere"
    assert len({image.numpy().tobytes() for image in images}) == 4, "same noise, four people"
    # One token off, the LoRA off: other images.
    assert not torch.equal(images, draw(build(checkpoints[layout], NoDiversity()), [(p,) for p in prompts], [1] * 4))


def test_a_guidance_interval_is_the_stock_pipeline_with_guidance_turned_off(checkpoints: dict[str, Path]) -> None:
    def turn_off(pipeline: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == STEPS // 2 - 1:  # diffusers' documented way to end guidance before the last step
            pipeline._guidance_scale = 0.0
            given["prompt_embeds"] = given["prompt_embeds"].chunk(2)[-1]
        return given

    ours = build(checkpoints["sd1"], NoDiversity(), guidance_interval=(0, 0.5))
    images = draw(ours, [(prompt,) for prompt in PROMPTS], SEEDS)
    more = {"callback_on_step_end": turn_off, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    stock = stock_images(stock_pipeline(checkpoints["sd1"]), PROMPTS, SEEDS, **more)
    assert int((images.int() - stock.int()).abs().max()) <= 1
    whole = build(checkpoints["sd1"], NoDiversity())
    assert not torch.equal(images, draw(whole, [(prompt,) for prompt in PROMPTS], SEEDS))
    assert ours.evaluations == 2 * (STEPS // 2) + STEPS // 2 < whole.evaluations
    assert ours.cache_key != whole.cache_key


@pytest.mark.parametrize("steps", [5, 10, 12, 30])
def test_a_guidance_interval_counts_the_steps_that_a_reference_leaves_out(steps: int) -> None:
    for skipped in range(steps):
        weights = np.full((steps - skipped, 2, 3), 4.0, np.float32)
        for tenths in range(1, 11):
            limited = limit_guidance(weights, (0.0, tenths / 10), begin=skipped / steps)
            guided = [Fraction(step, steps) < Fraction(tenths, 10) for step in range(skipped, steps)]
            assert np.array_equal(find_evaluated(limited), [[guides, True, guides] for guides in guided])


def test_sdedit_is_the_stock_image_to_image_pipeline(checkpoints: dict[str, Path]) -> None:
    strategy = SDEdit(strength=0.7)
    ours = build(checkpoints["sd1"], strategy, steps=10)
    references = torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = draw(ours, [(prompt,) for prompt in PROMPTS], SEEDS, references)
    plain = stock_pipeline(checkpoints["sd1"])
    plain.unet.register_to_config(sample_size=64)  # the stock class expects one number
    stock = StableDiffusionImg2ImgPipeline(**plain.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    with torch.no_grad():
        encoded = stock.vae.encode(references.float() / 127.5 - 1).latent_dist.mean * stock.vae.config.scaling_factor
    drawn = stock(
        PROMPTS, image=encoded, strength=0.7, num_inference_steps=10, guidance_scale=4.0, generator=generators(SEEDS),
        output_type="np",
    ).images  # fmt: skip
    theirs = torch.from_numpy((drawn * 255).round().astype("uint8")).permute(0, 3, 1, 2)
    assert int((images.int() - theirs.int()).abs().max()) <= 1
    assert strategy.evaluations(10, 4.0) == 14


def test_composed_guidance_without_weight_is_plain_guidance(checkpoints: dict[str, Path]) -> None:
    both = [(prompt, "at night") for prompt in PROMPTS]
    plain = draw(build(checkpoints["sd1"], NoDiversity()), [(prompt,) for prompt in PROMPTS], SEEDS)
    ours = build(checkpoints["sd1"], ComposedGuidance(attribute_weight=0, identity_weight=None))
    assert torch.equal(draw(ours, both, SEEDS), plain)
    assert ours.evaluations == 2 * STEPS
    # With a weight the words count, within the window alone.
    weighed = build(checkpoints["sd1"], ComposedGuidance(attribute_weight=3, window=(0, 0.5)))
    night, behind = (draw(weighed, [(p, word) for p in PROMPTS], SEEDS) for word in ("at night", "seen from behind"))
    assert not torch.equal(night, plain)
    assert not torch.equal(night, behind)


def formula_by_hand(folder: Path, term: Callable[[dict[str, Tensor], float], Tensor], texts: Sequence[str]) -> Tensor:
    """Write the guided process out, one prompt and one pass at a time, with the DDIM step.

    Args:
        folder: checkpoint.
        term: composes the predictions by text, "" among them, at a share of the steps.
        texts: of the prompts.
    """
    stock = stock_pipeline(folder)
    stock.scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(SEEDS[0]))
    with torch.no_grad():
        embedded = {text: stock.encode_prompt(text, "cpu", 1, False)[0] for text in ("", *texts)}
        for call, timestep in enumerate(stock.scheduler.timesteps):
            predictions = {text: stock.unet(latents, timestep, each).sample for text, each in embedded.items()}
            predicted = term(predictions, call / STEPS)
            latents = stock.scheduler.step(predicted, timestep, latents).prev_sample
        decoded = stock.vae.decode(latents / stock.vae.config.scaling_factor).sample
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()


def test_composed_guidance_is_the_formula(checkpoints: dict[str, Path]) -> None:
    """Composable Diffusion's equation 11."""
    strategy = ComposedGuidance(attribute_weight=2.0, identity_weight=3.0, window=(0.0, 0.5))
    images = draw(build(checkpoints["sd2"], strategy), [(PROMPTS[0], "at night")], SEEDS[:1])

    def term(found: dict[str, Tensor], place: float) -> Tensor:
        empty, identity, attribute = found[""], found[PROMPTS[0]], found["at night"]
        if place < 0.5:
            return empty + 3 * (identity - empty) + 2 * (attribute - empty)
        return empty + 4 * (identity - empty)

    expected = formula_by_hand(checkpoints["sd2"], term, [PROMPTS[0], "at night"])
    assert float((images.float() - expected).abs().max()) <= 1


@pytest.mark.parametrize("identity_weight", [None, 1.0])
def test_the_concept_difference_is_the_formula(checkpoints: dict[str, Path], identity_weight: float | None) -> None:
    """Guidance by the identity, and within the window the difference that the attributes make to the description."""
    strategy = ConceptDifference(attribute_weight=2.1, identity_weight=identity_weight, window=(0.0, 0.5))
    plain, worded = "a man", "a man at night"
    ours = build(checkpoints["sd2"], strategy)
    images = draw(ours, [(PROMPTS[0], worded, plain)], SEEDS[:1])

    def term(found: dict[str, Tensor], place: float) -> Tensor:
        within = place < 0.5
        scale = identity_weight if within and identity_weight is not None else 4
        return found[""] + scale * (found[PROMPTS[0]] - found[""]) + 2.1 * within * (found[worded] - found[plain])

    expected = formula_by_hand(checkpoints["sd2"], term, [PROMPTS[0], worded, plain])
    assert float((images.float() - expected).abs().max()) <= 1
    assert ours.evaluations == STEPS // 2 * ((4 if identity_weight is None else 3) + 2)


def test_equal_descriptions_make_no_difference(checkpoints: dict[str, Path]) -> None:
    plain = draw(build(checkpoints["sd1"], NoDiversity()), [(prompt,) for prompt in PROMPTS], SEEDS)
    ours = build(checkpoints["sd1"], ConceptDifference(attribute_weight=5, window=(0, 1)))
    equal = draw(ours, [(prompt, "a man", "a man") for prompt in PROMPTS], SEEDS)
    assert int((equal.int() - plain.int()).abs().max()) <= 1, "the sums are rounded in another order"
    off = build(checkpoints["sd1"], ConceptDifference(attribute_weight=0))
    worded = [(prompt, "a man, at night", "a man") for prompt in PROMPTS]
    assert torch.equal(draw(off, worded, SEEDS), plain) and off.evaluations == 2 * STEPS
    night = draw(ours, worded, SEEDS)
    assert not torch.equal(night, plain)
    assert torch.equal(night, draw(ours, worded, SEEDS))
    request = ImageRequest(("toy", "train", 2), 0, 5, "a man", {}, "", "")
    _, with_attributes, without = ours.prompts(request)
    assert with_attributes == without


@pytest.mark.parametrize(
    ("strategy", "scheduler"),
    [
        *((each, None) for each in STRATEGIES),
        *((each, "HeunDiscreteScheduler") for each in (NoDiversity(), SDEdit(0.6))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_the_stated_cost_is_what_the_denoiser_sees(
    checkpoints: dict[str, Path], strategy: Diversity, scheduler: str | None, guidance: float
) -> None:
    ours = build(checkpoints["sd1"], strategy, guidance=guidance, scheduler=scheduler)
    rows = []
    ours.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    request = ImageRequest(("toy", "train", 2), 0, 5, "a man", {"view": "walking"}, "x.png", "at night")
    worded = [ours.prompts(request)] * 2
    draw(ours, worded, [1, 2], torch.zeros(2, 3, *SIZE, dtype=torch.uint8))
    assert sum(rows) == 2 * ours.evaluations


def test_prompts_say_what_the_strategy_means(checkpoints: dict[str, Path]) -> None:
    request = ImageRequest(
        ("toy", "train", 2), 0, 5, "a man", {"view": "walking", "light": "at night"}, "x.png", "behind"
    )
    worded = {type(each).__name__: build(checkpoints["sd1"], each).prompts(request) for each in STRATEGIES}
    assert worded == {
        "NoDiversity": ("a photo of a man",),
        "WordsOnly": ("a photo of a man, walking, at night",),
        "ComposedGuidance": ("a photo of a man", "a photo of a person, walking, at night"),
        "ConceptDifference": ("a photo of a man", "a photo of a man, walking, at night", "a photo of a man"),
        "GuidanceJitter": ("a photo of a man",),
        "SDEdit": ("a photo of a man, behind",),
    }
    asked = {type(each).__name__: each.attributes(request) for each in STRATEGIES}
    assert asked["NoDiversity"] == asked["GuidanceJitter"] == {}
    for name in ("WordsOnly", "ComposedGuidance", "ConceptDifference"):
        assert asked[name] == {"view": "walking", "light": "at night"}
    assert asked["SDEdit"] == {"reference": "x.png"}


def test_jitter_is_the_images_own(checkpoints: dict[str, Path]) -> None:
    strategy = GuidanceJitter(factors=(0.5, 1.5))
    scales = strategy.weights(3, 4.0, list(range(200)))
    assert scales.shape == (3, 1, 200)
    assert (scales >= 2).all() and (scales <= 6).all() and scales[0].std() > 0.5
    assert (scales[:, :, 7:8] == strategy.weights(3, 4.0, [7])).all()


def test_prompts_are_encoded_once(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = build(checkpoints["sd1"], NoDiversity(), kept_prompts=2)
    first = draw(ours, [(PROMPTS[0],), (PROMPTS[1],), (PROMPTS[0],)], SEEDS)
    assert ours._prompts.encoded == 2
    again = draw(ours, [(PROMPTS[0],), (PROMPTS[1],), (PROMPTS[0],)], SEEDS)
    assert ours._prompts.encoded == 2
    assert torch.equal(first, again)
    draw(ours, [(prompt,) for prompt in PROMPTS], SEEDS)
    assert ours._prompts.encoded == 3
    draw(ours, [(PROMPTS[1],)], SEEDS[:1])
    assert ours._prompts.encoded == 3
    draw(ours, [(PROMPTS[0],)], SEEDS[:1])
    assert ours._prompts.encoded == 4, "the one used longest ago had to go"


def test_a_prompt_is_encoded_alike_in_any_company(checkpoints: dict[str, Path]) -> None:
    for layout in LAYOUTS:
        many, one = (build(checkpoints[layout], NoDiversity())._prompts for _ in range(2))
        with torch.no_grad():
            together = many([f"a man {number}" for number in range(13)] + ["a boy"])
            alone = one(["a boy"])
        for part, other in zip(together, alone, strict=True):
            assert part is other is None or torch.equal(part[-1], other[0])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scheduler": "DPMSolverMultistep"}, "did you mean 'DPMSolverMultistepScheduler'"),
        ({"scheduler": "UniPCMultistpScheduler"}, "did you mean 'UniPCMultistepScheduler'"),
        ({"scheduler": "torch.nn.Linear"}, "no scheduler 'torch.nn.Linear'"),
        ({"scheduler": "nowhere.Sampler"}, "no scheduler 'nowhere.Sampler'"),
        pytest.param(
            {"scheduler": "DPMSolverSDEScheduler"},
            "pip install torchsde",
            marks=pytest.mark.skipif(find_spec("torchsde") is not None, reason="the package is there"),
        ),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "cannot sample a Stable Diffusion checkpoint"),
        ({"scheduler": "IPNDMScheduler"}, "cannot sample a Stable Diffusion checkpoint"),
        ({"scheduler": "SchedulerMixin"}, "cannot sample a Stable Diffusion checkpoint"),
        ({"scheduler": "DDIMInverseScheduler"}, "from the image to the noise"),
        ({"scheduler": "DPMSolverMultistepInverseScheduler", "steps": 1}, "from the image to the noise"),
        (
            {"scheduler": "TCDScheduler", "scheduler_options": {"original_inference_steps": 0}},
            "TCDScheduler does not accept its settings",
        ),
        (
            {"scheduler": "UniPCMultistepScheduler", "scheduler_options": {"disable_corrector": 3}},
            "UniPCMultistepScheduler does not accept its settings",
        ),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"num_train_timesteps": 2}},
            "latents are not finite",
        ),
        ({"scheduler": "DDIMScheduler", "scheduler_options": {"timestep_spaceing": "x"}}, "mean 'timestep_spacing'"),
        ({"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"algorithm_type": "x"}}, "does not accept"),
        ({"steps": 0}, "model.steps must be at least 1"),
        ({"steps": 5000}, "at most 1,000"),
        ({"guidance": 0.5}, "model.guidance must be at least 1"),
        ({"guidance_interval": (0.5, 0.2)}, "model.guidance_interval must be two different numbers from 0 to 1"),
        ({"rescale": 2.0}, "model.rescale must be"),
        ({"image_size": (33, 16)}, "32, 16"),
        ({"template": "{person}"}, "person"),
    ],
)
def test_settings_that_cannot_be_are_refused(checkpoints: dict[str, Path], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        build(checkpoints["sd1"], NoDiversity(), **settings)
    assert told in str(refused.value)


@pytest.mark.parametrize("scale", [-1, 0.5, float("nan"), float("inf")])
def test_guidance_has_one_meaning_for_prior_images_and_generation(scale: float) -> None:
    assert guidance_scale("guidance", 0) == guidance_scale("guidance", 1) == 1
    assert FineGrainedPrior(guidance=0).guidance == 1
    for make in (lambda: guidance_scale("guidance", scale), lambda: FineGrainedPrior(guidance=scale)):
        with pytest.raises(UserError, match="must be at least 1 and at most 100"):
            make()


def test_a_sampler_must_take_a_schedule_that_ends_in_noise(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    stock = stock_pipeline(checkpoints["sd2"])
    stock.scheduler = diffusers.DDIMScheduler.from_config(
        stock.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    stock.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="whose last timestep is pure noise"):
        build(tmp_path, NoDiversity(), scheduler="HeunDiscreteScheduler")
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler"):
        images = draw(build(tmp_path, NoDiversity(), scheduler=name), [(prompt,) for prompt in PROMPTS], SEEDS)
        assert float(images.float().std()) > 5


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ComposedGuidance(window=(0.5, 0.5)), "window"),
        (lambda: ComposedGuidance(window=(0.0, 1.5)), "window"),
        (lambda: ComposedGuidance(attribute_weight=-1), "attribute_weight must be at least 0"),
        (lambda: ConceptDifference(attribute_weight=-1), "ConceptDifference.attribute_weight must be at least 0"),
        (lambda: ConceptDifference(window=(0.5, 0.5)), "ConceptDifference.window"),
        (lambda: SDEdit(strength=0), "SDEdit.strength must be greater than 0"),
        (lambda: GuidanceJitter(factors=(2, 1)), "factors"),
        (lambda: GuidanceJitter(factors=(0, 1)), "greater than 0"),
    ],
)
def test_strategies_refuse_what_means_nothing(make: Any, told: str) -> None:
    with pytest.raises(UserError) as refused:
        make()
    assert told in str(refused.value)


def test_half_precision_is_close(checkpoints: dict[str, Path]) -> None:
    single = draw(build(checkpoints["sd1"], NoDiversity()), [(prompt,) for prompt in PROMPTS], SEEDS)
    half = build(checkpoints["sd1"], NoDiversity(), dtype="bfloat16", channels_last=True, decoded_together=2)
    assert half.unet.dtype == half.vae.dtype == torch.bfloat16
    images = draw(half, [(prompt,) for prompt in PROMPTS], SEEDS)
    assert float((images.float() - single.float()).abs().mean()) < 4


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_the_precision_that_the_device_computes(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, native: bool, chosen: str
) -> None:
    monkeypatch.setattr("diffreid_lightning.generation.module.computes_bfloat16", lambda device: native)
    module = build(checkpoints["sd1"], NoDiversity(), dtype="auto")
    assert module.unet.dtype == getattr(torch, chosen)
    assert module.cache_key == build(checkpoints["sd1"], NoDiversity(), dtype=chosen).cache_key


def test_pictures_that_are_not_finite_are_not_drawn_black(checkpoints: dict[str, Path]) -> None:
    vae = stock_pipeline(checkpoints["sd1"]).vae
    latents = torch.zeros(3, vae.config.latent_channels, 2, 2)
    latents[1] = float("nan")
    with torch.no_grad():
        decoded = decode_latents(vae, latents, 2)
        assert decoded.finite.tolist() == [True, False, True] and decoded.pictures[1].max() == 0


def test_a_batch_without_a_finite_picture_ends_the_run(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CPU_PART", 1)
    ours = build(checkpoints["sd1"], NoDiversity())
    noise = module.initial_noise

    def broken(drawing: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
        drawn = noise(drawing, shape)
        drawn[[number for number, each in enumerate(drawing) if each.initial_seed() == 0]] = float("nan")
        return drawn

    monkeypatch.setattr(module, "initial_noise", broken)
    with torch.no_grad():
        assert ours.draw([(p,) for p in PROMPTS], [1, 0, 0]).finite.tolist() == [True, False, False]
        assert not ours.draw([(PROMPTS[0],)], [0]).finite.any(), "one of one may be a batch's rest"
        with pytest.raises(RunError, match=r"2 of 2 pictures .* not finite") as error:
            ours.draw([(p,) for p in PROMPTS[:2]], [0, 0])
    assert "--model.dtype bfloat16" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("strategy", "sampler"),
    [(ComposedGuidance(), SAMPLERS[0]), (SDEdit(0.6), SAMPLERS[1]), (WordsOnly(), SAMPLERS[7])],
    ids=lambda each: each[0] if isinstance(each, tuple) else type(each).__name__,
)
@pytest.mark.usefixtures("restore_threads")
def test_parts_of_a_batch_are_drawn_alike_by_any_number_of_threads(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, strategy: Diversity, sampler: tuple[str, Any]
) -> None:
    ours = build(checkpoints["sd1"], strategy, scheduler=sampler[0], scheduler_options=sampler[1])
    prompts = [PROMPTS[:2] if isinstance(strategy, ComposedGuidance) else PROMPTS[:1]] * 5
    seeds, references = range(5), torch.randint(0, 256, (5, 3, *SIZE), dtype=torch.uint8)
    whole = draw(ours, prompts, seeds, references)
    monkeypatch.setattr(module, "_CPU_PART", 2)
    torch.set_num_threads(1)
    parts = draw(ours, prompts, seeds, references)
    for number in (2, 3):
        torch.set_num_threads(number)
        assert torch.equal(draw(ours, prompts, seeds, references), parts)
        assert torch.get_num_threads() == number
    assert int((parts.int() - whole.int()).abs().max()) <= 1
    ours.decoded_together = 2
    assert int((draw(ours, prompts, seeds, references).int() - whole.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("settings", "shift", "scale"),
    [
        ({"scaling_factor": 0.5}, 0.0, 0.5),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 0.25, 0.5),
        ({"scaling_factor": 0.5, "latents_mean": [2.0] * 4, "latents_std": [4.0] * 4}, 2.0, 0.125),
    ],
)
def test_latents_are_normalized_alike_on_every_way(
    checkpoints: dict[str, Path], settings: dict[str, Any], shift: float, scale: float
) -> None:
    vae = stock_pipeline(checkpoints["sd1"]).vae
    vae.register_to_config(**settings)
    encoded = torch.randn(2, 4, 3, 2)
    scaled = scale_latents(vae, encoded)
    torch.testing.assert_close(scaled, (encoded - shift) * scale)
    torch.testing.assert_close(unscale_latents(vae, scaled), encoded)
    pictures = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    with torch.no_grad():
        mean = vae.encode(pictures.float() / 127.5 - 1).latent_dist.mean
        torch.testing.assert_close(encode_images(vae, pictures), (mean - shift) * scale)
        decoded = vae.decode(mean, return_dict=False)[0]
        again = decode_latents(vae, (mean - shift) * scale, 1).pictures
    assert float((again.float() - ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()).abs().max()) <= 1


@pytest.mark.parametrize("distinct", [7, 6])  # the last prompts are new ones, or were seen before
def test_every_prompt_is_checked_once_and_few_are_held(
    distinct: int, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = build(checkpoints["sd1"], WordsOnly())
    checked: list[list[str]] = []
    monkeypatch.setattr(module, "tokenize", lambda tokenizer, prompts: checked.append(list(prompts)))
    monkeypatch.setattr(module, "_CHECKED_TOGETHER", 3)

    def request(row: int) -> ImageRequest:
        return ImageRequest(("toy", "train", 2), row, row, f"a man in {row % distinct}", {}, "", "")

    asked = SimpleNamespace(rows=20, rows_left=20, request=request)
    ours._check_prompts(asked)  # type: ignore[arg-type]
    assert [prompt for part in checked for prompt in part] == [f"a photo of a man in {row}" for row in range(distinct)]
    assert max(map(len, checked)) == 3 and all(checked)
    checked.clear()
    asked.rows_left = 0
    ours._check_prompts(asked)  # type: ignore[arg-type]
    assert not checked, "what is finished needs no check"


def test_it_says_what_its_model_was_trained_on(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = write_personalized_model(tmp_path, checkpoints["sd1"])
    assert build(folder, NoDiversity()).trained_on == ()
    (folder / "provenance.json").write_text(json.dumps({"training_data": {"manifest": "a" * 64}}))
    assert build(folder, NoDiversity()).trained_on == ("a" * 64,)
    (folder / "provenance.json").write_text("[1")
    with pytest.raises(UserError, match=r"provenance\.json"):
        _ = build(folder, NoDiversity()).trained_on


def test_the_generator_is_named_by_its_weights(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = write_personalized_model(tmp_path, checkpoints["sd1"])
    names = [build(each, NoDiversity()).generator for each in (checkpoints["sd1"], checkpoints["sd2"], folder)]
    assert len(set(names)) == 3
    assert names[2] == load_personalized(folder).content_hash
    settings = json.loads(json.dumps(build(folder, ComposedGuidance()).cache_key))
    assert settings["diversity"]["attribute_weight"] == 3.0
    assert settings["scheduler"]["class"] == "DDIMScheduler"
