"""Many people at once against diffusers as users use it, with the same weights on the same machine.

    python -m experiments.personalization.against_diffusers --base PIPELINE --world data/world

(a) Training. All people are taught to one model (full LPE but for its prior: neither side has prior images, whose cost
    would be the same). Some of them are taught by DreamBooth-LoRA, each to a model of their own
    (:mod:`experiments.personalization.dreambooth`); that is tried after more and more steps. Seconds per person are
    compared where as many images are recognized as of the same people by the joint model, between two tries by
    interpolation. Both train in single precision. Loading the base model and encoding the pictures counts on neither
    side.
(b) Generation. The joint model draws the same prompts with the same sampler: by the package's ``predict``, and by a
    loop over the people that calls a stock ``StableDiffusionPipeline``, its LoRA fused, with a person's prompts and
    saves the images as JPEG. Both are done in single precision, which the stock pipeline has unless it is told
    otherwise, and in bfloat16, in turn several times; medians are compared.

Give it a machine that does nothing else: ratios are of what was measured in one run on one machine. Trainings that are
finished are kept, by the number of threads; rounds of generation are not.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

import torch

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.diffusion_sampler import Sampler
from diffreid_lightning.generation.diversity import NoDiversity, WordsOnly
from experiments.instruments.devices import device_name, elsewhere
from experiments.instruments.drawing import Drawing, draw_people, steps_for
from experiments.instruments.measures import Portrayed, portrayed
from experiments.instruments.pictures import SIZE, content_key, to_bytes
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script
from experiments.instruments.stock_loop import StockLoop, stock_rate
from experiments.personalization.bench import Bench, add_options, in_turn, kept, open_bench, results_file
from experiments.personalization.cells import Cell, personalize
from experiments.personalization.dreambooth import Alone, train_alone

JOINT = Cell(caption=True, tokens="free", prior="none")
PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")


def people_apart(count: int, chosen: int) -> list[int]:
    """Choose so many of ``count`` people, evenly spread over them."""
    chosen = min(chosen, count)
    return [place * count // chosen for place in range(chosen)]


class Meeting(NamedTuple):
    """Point at which a curve reaches a share."""

    steps: float
    seconds: float
    share: float
    reached: bool


def equal_recognition(curve: Mapping[int, tuple[float, float]], wanted: float) -> Meeting:
    """Find where a curve first reaches a share, linear between its points and from nothing to the first.

    Args:
        curve: mean seconds and mean share recognized, by steps.
        wanted: the share.

    Returns:
        The place; the last point where the curve does not come so far.
    """
    before = Meeting(0, 0.0, 0.0, True)
    for steps in sorted(curve):
        seconds, share = curve[steps]
        if share >= wanted:
            rise = share - before.share
            part = (wanted - before.share) / rise if rise else 1.0
            steps_there = before.steps + part * (steps - before.steps)
            return Meeting(steps_there, before.seconds + part * (seconds - before.seconds), wanted, True)
        before = Meeting(steps, seconds, share, True)
    return before._replace(reached=False)


def mean_curve(persons: Sequence[Sequence[Mapping[str, float]]]) -> dict[int, tuple[float, float]]:
    """Average the points of several people's curves: seconds and share recognized, by steps."""
    return {
        int(points[0]["steps"]): (
            statistics.fmean(point["seconds"] for point in points),
            statistics.fmean(point["recognized"] for point in points),
        )
        for points in zip(*persons, strict=True)
    }


def taught_alone(bench: Bench, key: IdentityKey, alone: Alone, seed: int) -> dict[str, Any]:
    """Teach one person alone and see after each checkpoint how many of its images are recognized; kept."""
    rows = [row for row, shown in enumerate(bench.real.keys) if shown == key]
    name = content_key(
        weights_hash(locate_pipeline(bench.base)),
        list(key),
        bench.people.content_hash,
        asdict(alone),
        [getattr(bench.drawing, name) for name in ("images", "evaluations", "guidance", "scheduler")],
        bench.fingerprint,
        seed,
        *elsewhere(),
    )

    def compute() -> dict[str, Any]:
        points = []
        for steps, seconds, pipeline, prompt in train_alone(bench.base, bench.real.pictures[rows], alone, seed):
            images = _sample(pipeline, [prompt] * bench.drawing.images, bench, list(range(bench.drawing.images)))
            recognized = bench.instruments.nearest.recognized(images, [key] * len(images))
            points.append({"steps": steps, "seconds": seconds, "recognized": float(recognized.mean())})
        return {"person": list(key), "points": points}

    return kept(bench.work / "alone" / f"{name}.json", compute)


def _sample(pipeline: Any, prompts: list[str], bench: Bench, seeds: list[int]) -> torch.Tensor:
    """Draw as many images as prompts by the pipeline itself: (N, 3, H, W) uint8."""
    steps = steps_for(NoDiversity(), bench.drawing)
    own = pipeline.scheduler
    pipeline.scheduler = Sampler(own, bench.drawing.scheduler, {}, steps).scheduler
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=bench.drawing.guidance,
        height=SIZE[0],
        width=SIZE[1],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).images
    pipeline.scheduler = own
    return to_bytes(images.cpu())


def compare_training(bench: Bench, ways: Sequence[Alone], chosen: int, seed: int) -> dict[str, Any]:
    """Part (a), for several ways of teaching one person alone."""
    trained = personalize(bench.base, bench.people, JOINT, bench.settings, seed, bench.work)
    drawing = replace(bench.drawing, dtype="float32")  # as the others are
    drawn = draw_people(trained.folder, bench.people, NoDiversity(), drawing, seed, bench.work)
    keys = sorted(set(bench.real.keys))
    some = [keys[place] for place in people_apart(len(keys), chosen)]
    shown = joint_share(bench, portrayed(drawn.manifest), some)
    per_person = trained.seconds / len(keys)
    found = []
    for alone in ways:
        curve = mean_curve([taught_alone(bench, key, alone, seed)["points"] for key in some])
        met = equal_recognition(curve, shown)
        points = {str(step): list(point) for step, point in curve.items()}
        found.append({"rate": alone.rate, **met._asdict(), "ratio": met.seconds / per_person, "curve": points})
    return {
        "people": len(keys),
        "some": len(some),
        "seconds": per_person,
        "recognized": shown,
        "alone": found,
    }


def joint_share(bench: Bench, images: Portrayed, some: Sequence[IdentityKey]) -> float:
    """Share of the joint model's images of some people that are recognized."""
    rows = [row for row, key in enumerate(images.keys) if key in set(some)]
    keys = [images.keys[row] for row in rows]
    return float(bench.instruments.nearest.recognized(images.pictures[rows], keys).mean())


def compare_generation(bench: Bench, rounds: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Part (b): images per second of both ways in turn, by precision."""
    model = personalize(bench.base, bench.people, JOINT, bench.settings, seed, bench.work).folder
    rates: dict[str, dict[str, list[float]]] = {dtype: {"ours": [], "stock": []} for dtype in PRECISIONS}
    scratch = bench.work / "rounds"
    for number in range(rounds):
        turns = ("ours", "stock") if number % 2 == 0 else ("stock", "ours")  # neither is always the second
        for dtype in PRECISIONS:
            drawing = replace(bench.drawing, dtype=dtype)
            for way in turns:
                shutil.rmtree(scratch, ignore_errors=True)
                if way == "ours":
                    drawn = draw_people(model, bench.people, WordsOnly(), drawing, seed, scratch)
                    wanted, rate = drawn.manifest, drawn.images_per_second
                else:
                    rate = stock_rate(model, wanted, stock_loop(drawing), scratch / "stock")
                rates[dtype][way].append(rate)
            latest = " and ".join(f"{way[-1]:.2f}" for way in rates[dtype].values())
            print(f"  round {number + 1} of {rounds}, {dtype}: {latest} images/s", flush=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return rates


def stock_loop(drawing: Drawing) -> StockLoop:
    """The loop that draws as many steps as ``predict``, by the same sampler."""
    return StockLoop(steps_for(WordsOnly(), drawing), drawing.guidance, drawing.scheduler, drawing.dtype)


def report(
    training: Mapping[str, Any], generation: Mapping[str, Mapping[str, Sequence[float]]], drawing: Drawing
) -> str:
    """The tables."""
    people, some = training["people"], training["some"]
    rows = [(f"{people} people at once", f"{training['seconds']:.2f}", f"{100 * training['recognized']:.1f}", "")]
    for alone in training["alone"]:
        way = f"one at a time, rate {alone['rate']:g}, {alone['steps']:.0f} steps each ({some} people)"
        more = "" if alone["reached"] else "> "
        shown = f"{100 * alone['share']:.1f}"
        rows.append((way, f"{alone['seconds']:.2f}", shown, f"{more}{alone['ratio']:.1f}"))
    taught = table("Training", ["", "seconds per person", "recognized, %", "times as long"], rows)
    medians = {
        dtype: {way: statistics.median(rates) for way, rates in both.items()} for dtype, both in generation.items()
    }
    reference = medians[PRECISIONS[0]]["stock"]
    lines = [
        (name, *(f"{medians[dtype][way]:.2f} ({medians[dtype][way] / reference:.2f})" for dtype in medians))
        for way, name in (
            ("stock", f"a loop over StableDiffusionPipeline, {drawing.images} images of a person at a time"),
            ("ours", f"predict, {drawing.batch_size} images at a time"),
        )
    ]
    rounds = len(generation[PRECISIONS[0]]["ours"])
    title = f"Generation, medians of {rounds} rounds; in brackets ratios to the loop in {PRECISIONS[0]}"
    return "\n".join([taught, table(title, ["images/s", *medians], lines)])


def run(given: argparse.Namespace) -> None:
    """Do both parts, print the tables, write ``against_diffusers-SPLIT.json``."""
    bench = open_bench(given, "rendered")
    settings = replace(bench.settings, precision="32-true")  # as those who are taught alone
    own = bench.work / f"against_diffusers-{given.threads}-threads"
    bench = replace(bench, settings=settings, work=own)
    ways = [Alone(tuple(sorted(given.alone_steps)), rate, given.alone_rank) for rate in given.alone_rates]
    with in_turn(own / "turn"):
        training = compare_training(bench, ways, given.some, given.seed)
        generation = compare_generation(bench, given.rounds, given.seed)
    print(report(training, generation, bench.drawing))
    made_by = {
        "device": device_name(),
        "threads": given.threads,
        "settings": asdict(settings),
        "alone": [asdict(alone) for alone in ways],
        "drawing": asdict(bench.drawing),
    }
    measured = {"training": training, "generation": generation}
    write_json(results_file("against_diffusers", given), {**measured, "made_by": made_by})


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Many people at once against diffusers as users use it.")
    add_options(parser, "runs/experiments/stage1")
    parser.add_argument("--some", type=int, default=8, help="people who are taught alone as well")
    parser.add_argument("--alone-steps", type=int, nargs="+", default=Alone.checkpoints, help="after which to try")
    parser.add_argument(
        "--alone-rates", type=float, nargs="+", default=[Alone.rate], help="learning rates of DreamBooth-LoRA"
    )
    parser.add_argument("--alone-rank", type=int, default=Alone.rank, help="of its LoRA")
    parser.add_argument("--rounds", type=int, default=3, help="of generation, both ways in turn")
    parser.add_argument("--seed", type=int, default=0, help="of training, design and noise")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
