"""Measure how the sampler's settings trade recognition, distance from real images (KID) and evaluations.

    python -m experiments.generator.guidance --root runs/tour --work runs/experiments/guidance

``--root`` is a finished chain: its captioned people, its personalized model and its scorer are used. Every setting
draws the same people with the same noise and the same requests. Recognized is the share of images that the scorer
takes for the person asked for, among all its people, with a 95 % interval over people (bootstrap). KID, times 1000, is
measured to the drawn people's real images in the features of timm's ``tf_efficientnet_lite0``; the row of real images
has that of the domain's ``val`` people, who are others. The Vendi score (1 to 4) is the variety of four images of one
person. Seconds are those of the processor (with ``--threads 1``: of one core), of the fastest batch of 32 images, from
prompts to JPEG files. Query and gallery are never read. Needs the extra ``imagenet``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from diffreid_lightning.captioning.attribute_network import AttributeNetwork
from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.filtering.scorer_checkpoint import Recognizer, ScorerFolder, load_scorer
from diffreid_lightning.generation.diversity import (
    ComposedGuidance,
    ConceptDifference,
    Diversity,
    GuidanceJitter,
    NoDiversity,
    SDEdit,
    WordsOnly,
)
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.content_hash import hash_tensors
from experiments.generator.tiny_sd import kernel_distances, kid_features
from experiments.instruments.devices import elsewhere
from experiments.instruments.drawing import Drawing, draw_with
from experiments.instruments.known_people import choose_people, number_people
from experiments.instruments.over_people import bootstrap, distances_without, jackknife
from experiments.instruments.pictures import SIZE, content_key, outputs, read_pictures
from experiments.instruments.report import table, write_json
from experiments.instruments.requests_shown import as_asked, read_words
from experiments.instruments.script import run_script
from experiments.instruments.variety import vendi_score, within_people

_SET = 4
STRATEGIES: dict[str, Diversity] = {
    "ComposedGuidance": ComposedGuidance(),
    "NoDiversity": NoDiversity(),
    "WordsOnly": WordsOnly(),
    "GuidanceJitter": GuidanceJitter(),
    "SDEdit": SDEdit(),
    "ConceptDifference": ConceptDifference(),
    "ConceptDifference, weight 6": ConceptDifference(6.0),
    "ConceptDifference, identity 1": ConceptDifference(identity_weight=1.0),
}
HEADS = ("setting", "evaluations", "recognized, %", "KID x 1000", "Vendi", "s / image")


@dataclass(frozen=True)
class Setting:
    """Settings of a sampler.

    Args:
        strategy: one of :data:`STRATEGIES`.
        guidance: scale.
        end: of the guidance interval, from 0.
        rescale: guidance rescale.
        steps: of the sampler.
        scheduler: the sampler's class.
        solver_steps: of a few-step student's distillation; None for other models.
        dtype: precision of the networks.
    """

    strategy: str = "ComposedGuidance"
    guidance: float = 4.0
    end: float = 1.0
    rescale: float = 0.0
    steps: int = 12
    scheduler: str = "DPMSolverMultistepScheduler"
    solver_steps: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __str__(self) -> str:
        text = f"{self.strategy}, guidance {self.guidance:g}"
        text += f" to {100 * self.end:.0f} %" if self.end < 1 else ""
        text += f", rescale {self.rescale:g}" if self.rescale else ""
        text += f", {self.steps} steps"
        return text if self.scheduler == Setting.scheduler else f"{text}, {self.scheduler.removesuffix('Scheduler')}"


def settings() -> list[Setting]:
    """Return the settings that are compared: one thing at a time around the default, then together."""
    first = Setting()
    scales = [replace(first, guidance=scale) for scale in (4.0, 2.0, 1.0, 3.0, 6.0)]
    limited = [replace(first, guidance=scale, end=end) for scale in (4.0, 3.0) for end in (0.5, 0.75)]
    faster = [replace(first, guidance=3.0, end=end, steps=8) for end in (1.0, 0.75)]
    strategies = [replace(first, strategy=name) for name in ("NoDiversity", "SDEdit")]
    return [*scales, *limited, *faster, replace(first, rescale=0.7), *strategies, replace(first, steps=25)]


@dataclass(frozen=True)
class Judges:
    """Measure images of people by networks that did not draw them.

    Args:
        scorer: of a finished chain.
        real: (N, 3, H, W) uint8 real images of the people.
        features: network for KID and variety.
        reader: reads whether requests are shown; None leaves that out.
    """

    scorer: ScorerFolder
    real: torch.Tensor
    features: torch.nn.Module
    reader: AttributeNetwork | None = None

    @cached_property
    def real_features(self) -> npt.NDArray[np.float64]:
        """Features of the real images, (N, D)."""
        found: npt.NDArray[np.float64] = outputs(self.features, self.real).double().numpy()
        return found

    def labels(self, rows: Manifest) -> npt.NDArray[np.int64]:
        """Number the people of N rows as the scorer does, (N,)."""
        return number_people(rows, self.scorer.identities)


def recognize(network: Recognizer, pictures: torch.Tensor, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which pictures (N, 3, H, W) uint8 the classifier takes for the person of their label."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network.embed(images)[1].float() @ self.network.classifier.float().T
            return logits

    found: npt.NDArray[np.bool_] = outputs(Logits(), pictures).argmax(dim=1).numpy() == labels
    return found


def measure(rows: Manifest, given: Judges) -> dict[str, Any]:
    """Measure images of people, each at the size that a network was trained with.

    Returns:
        Shares and distances with their intervals; ``shares`` are those of each person, ``kid_without`` the distances
        without each, for comparisons of the same people.
    """
    pictures, labels = read_pictures(rows), given.labels(rows)
    small = [
        evaluation_view(rows.images.image(name), given.scorer.image_size)
        for name in rows.table["file_name"].to_pylist()
    ]
    hits = recognize(given.scorer.recognizer, torch.stack(small), labels)
    features = outputs(given.features, pictures).double().numpy()
    kid = kernel_distances(given.features, given.real, {"kid": pictures})["kid"]["mean"]
    shares = [float(hits[labels == person].mean()) for person in np.unique(labels)]
    without = distances_without(features, labels, given.real_features)
    found = {
        "images": len(labels),
        "recognized": float(hits.mean()),
        "interval": bootstrap(shares),
        "kid": kid,
        "kid_interval": jackknife(kid, without),
        "vendi": within_people(labels, lambda rows: vendi_score(features[rows]), _SET),
        "shares": shares,
        "kid_without": without,
    }
    if given.reader is not None and "attributes" in rows.columns:
        found["as_asked"] = as_asked(rows, read_words(given.reader, pictures))
    return found


@dataclass(frozen=True)
class Bench:
    """Hold the model, the judges and the people that settings are measured with.

    Args:
        model: folder of the personalized model.
        judges: of its images.
        people: captioned images of the people who are drawn.
        held_out: (N, 3, H, W) uint8 real images of others.
        drawing: how many images.
        work: folder for all that is kept.
    """

    model: str
    judges: Judges
    people: Manifest
    held_out: torch.Tensor
    drawing: Drawing
    work: Path


def measure_setting(bench: Bench, setting: Setting) -> dict[str, Any]:
    """Draw and measure under a setting; what is finished is read."""
    module = GenerationModule(
        model=bench.model,
        image_size=SIZE,
        scheduler=setting.scheduler,
        scheduler_options={"original_inference_steps": setting.solver_steps} if setting.solver_steps else None,
        steps=setting.steps,
        guidance=setting.guidance,
        guidance_interval=(0.0, setting.end),
        rescale=setting.rescale,
        diversity=STRATEGIES[setting.strategy],
        dtype=setting.dtype,
    )
    scorer, reader = bench.judges.scorer, bench.judges.reader
    judged = scorer.content_hash, None if reader is None else hash_tensors(reader.state_dict())
    of_time = torch.get_num_threads(), elsewhere()
    key = content_key(module.cache_key, bench.people.content_hash, bench.drawing.content, *judged, *of_time)
    file = bench.work / "results" / f"{key}.json"
    if not file.exists():
        drawn = draw_with(module, bench.people, bench.drawing, 0, bench.work, time.process_time)
        found = {"evaluations": drawn.evaluations, "seconds": drawn.fastest, **measure(drawn.manifest, bench.judges)}
        write_json(file, {"setting": asdict(setting), **found})
    return dict(json.loads(file.read_text(encoding="utf-8")))


def open_bench(given: argparse.Namespace, reader: AttributeNetwork | None = None) -> Bench:
    """Read the people, the model and the scorer of a chain; the options are those of :func:`add_options`."""
    people = choose_people(Manifest.read(given.root / "caption"), "train", given.identities)
    scorer = load_scorer(given.root / "score" / "fit-001" / "scorer")
    return Bench(
        str(given.root / "personalize" / "fit-001" / "personalized"),
        Judges(scorer, read_pictures(people), kid_features(), reader),
        people,
        read_pictures(choose_people(MiniPerson(given.domain).manifest(), "val", None)),
        Drawing(images=given.images),
        given.work,
    )


def add_options(parser: argparse.ArgumentParser, work: str) -> None:
    """Add the options of a measurement on a finished chain, kept in the folder ``work``."""
    parser.add_argument("--root", type=Path, required=True, help="folder of a finished chain")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for all that is kept")
    parser.add_argument("--domain", choices=("campus", "station"), default="campus", help="of MiniPerson")
    parser.add_argument("--identities", type=int, default=48, help="the first so many people")
    parser.add_argument("--images", type=int, default=4, help="of each person")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")


def main(argv: list[str] | None = None) -> int:
    """Parse the options, measure every setting, print the table and write it with its numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.guidance", description=__doc__.split("\n")[0]
    )
    add_options(parser, "runs/experiments/guidance")
    return run_script(run, parser.parse_args(argv))


def run(given: argparse.Namespace) -> None:
    """Do what the options ask for."""
    bench = open_bench(given)
    found = []
    for setting in settings():
        found.append((setting, measure_setting(bench, setting)))
        print(" | ".join(row_of(*found[-1])), flush=True)
    real = measure(bench.people, bench.judges)
    real["kid"] = kernel_distances(bench.judges.features, bench.judges.real, {"val": bench.held_out})["val"]["mean"]
    rows = [row_of("real images", {**real, "evaluations": None, "seconds": None})]
    text = table("Sampler settings", HEADS, [*rows, *(row_of(*each) for each in found)])
    print(text)
    (given.work / "guidance.md").write_text(text + "\n", encoding="utf-8")
    write_json(given.work / "guidance.json", {"real": real, "settings": [row for _, row in found]})


def row_of(setting: Setting | str, row: dict[str, Any]) -> list[str]:
    """Write a row of the table, under :data:`HEADS`."""
    low, high = row["interval"]
    return [
        str(setting),
        str(row["evaluations"] or ""),
        f"{100 * row['recognized']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
        f"{1000 * row['kid']:.0f}",
        f"{row['vendi']:.2f}",
        "" if row["seconds"] is None else f"{row['seconds']:.3f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
