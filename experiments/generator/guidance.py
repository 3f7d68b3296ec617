"""Measure how the sampler's settings trade recognition, distance from real images (KID) and evaluations.

    python -m experiments.generator.guidance --root runs/tour --work runs/experiments/guidance

``--root`` is a finished chain: its captioned people, its personalized model and its scorer are used. Every setting
draws the same people with the same noise and the same requests. Recognized is the share of images that the scorer
takes for the person asked for, among all its people, with a 95 % interval over people (bootstrap). KID, times 1000, is
measured to the drawn people's real images in the features of timm's ``tf_efficientnet_lite0``; the row of real images
has that of the domain's ``val`` people, who are others. The Vendi score (1 to 4) is the variety of four images of one
person. Query and gallery are never read. Needs the extra ``imagenet``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch

from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.filtering.scorer_checkpoint import Recognizer, ScorerFolder, load_scorer
from diffreid_lightning.generation.diversity import ComposedGuidance, Diversity, NoDiversity, SDEdit
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.manifest import Manifest
from experiments.generator.tiny_sd import kernel_distances, kid_features
from experiments.instruments.drawing import Drawing, draw_with
from experiments.instruments.known_people import choose_people
from experiments.instruments.pictures import SIZE, content_key, outputs, read_pictures
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script
from experiments.instruments.variety import vendi_score, within_people

_SET = 4
_HEADS = ("setting", "evaluations", "recognized, %", "KID x 1000", "Vendi", "s / image")


@dataclass(frozen=True)
class Setting:
    """Settings of a sampler.

    Args:
        strategy: name of the strategy.
        guidance: scale.
        end: of the guidance interval, from 0.
        rescale: guidance rescale.
        steps: of the sampler.
        scheduler: the sampler's class.
    """

    strategy: str = "composed"
    guidance: float = 4.0
    end: float = 1.0
    rescale: float = 0.0
    steps: int = 12
    scheduler: str = "DPMSolverMultistepScheduler"

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
    strategies = [replace(first, strategy=name) for name in ("none", "sdedit")]
    return [*scales, *limited, *faster, replace(first, rescale=0.7), *strategies, replace(first, steps=25)]


def strategy_of(setting: Setting) -> Diversity:
    """Build the strategy of a setting; composed guidance has its default weights."""
    return {"composed": ComposedGuidance, "none": NoDiversity, "sdedit": SDEdit}[setting.strategy]()


@dataclass(frozen=True)
class Judges:
    """Measure images of people by networks that did not draw them.

    Args:
        scorer: of a finished chain.
        real: (N, 3, H, W) uint8 real images of the people.
        features: network for KID and variety.
    """

    scorer: ScorerFolder
    real: torch.Tensor
    features: torch.nn.Module

    def labels(self, rows: Manifest) -> npt.NDArray[np.int64]:
        """Number the people of N rows as the scorer does, (N,)."""
        numbers = {key: number for number, key in enumerate(self.scorer.identities)}
        own, keys = rows.identities()
        found: npt.NDArray[np.int64] = np.array([numbers[key] for key in keys], dtype=np.int64)[own]
        return found


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


def interval(hits: npt.NDArray[np.bool_], people: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Bootstrap people for the 95 % interval of the share of hits."""
    shares = np.array([hits[people == person].mean() for person in np.unique(people)])
    draws = np.random.default_rng(0).integers(len(shares), size=(2000, len(shares)))
    low, high = np.quantile(shares[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(rows: Manifest, given: Judges) -> dict[str, Any]:
    """Measure images of people, each at the size that a network was trained with."""
    pictures, labels = read_pictures(rows), given.labels(rows)
    small = [
        evaluation_view(rows.images.image(name), given.scorer.image_size)
        for name in rows.table["file_name"].to_pylist()
    ]
    hits = recognize(given.scorer.recognizer, torch.stack(small), labels)
    features = outputs(given.features, pictures).double().numpy()
    distances = kernel_distances(given.features, given.real, {"kid": pictures})["kid"]
    return {
        "images": len(labels),
        "recognized": float(hits.mean()),
        "interval": interval(hits, labels),
        "kid": distances["mean"],
        "vendi": within_people(labels, lambda rows: vendi_score(features[rows]), _SET),
    }


@dataclass(frozen=True)
class _Bench:
    model: str
    judges: Judges
    people: Manifest
    held_out: torch.Tensor
    drawing: Drawing
    work: Path


def measure_setting(bench: _Bench, setting: Setting) -> dict[str, Any]:
    """Draw and measure under a setting; what is finished is read."""
    module = GenerationModule(
        model=bench.model,
        image_size=SIZE,
        scheduler=setting.scheduler,
        steps=setting.steps,
        guidance=setting.guidance,
        guidance_interval=(0.0, setting.end),
        rescale=setting.rescale,
        diversity=strategy_of(setting),
    )
    file = (
        bench.work
        / "results"
        / f"{content_key(module.cache_key, bench.people.content_hash, bench.drawing.content)}.json"
    )
    if not file.exists():
        drawn = draw_with(module, bench.people, bench.drawing, 0, bench.work)
        found = measure(drawn.manifest, bench.judges)
        seconds = 1 / drawn.images_per_second
        write_json(file, {"setting": asdict(setting), "evaluations": drawn.evaluations, "seconds": seconds, **found})
    return dict(json.loads(file.read_text(encoding="utf-8")))


def draw_picture(found: list[tuple[Setting, dict[str, Any]]], file: Path) -> None:
    """Draw recognized and KID against evaluations."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    groups: dict[str, list[tuple[Setting, dict[str, Any]]]] = {}
    for setting, row in found:
        kind = setting.strategy if setting.strategy != "composed" else f"composed, guidance {setting.guidance:g}"
        groups.setdefault(kind, []).append((setting, row))
    for kind, rows in groups.items():
        across = [row["evaluations"] for _, row in rows]
        for axis, name, factor in ((axes[0], "recognized", 100), (axes[1], "kid", 1000)):
            axis.scatter(across, [factor * row[name] for _, row in rows], label=kind, s=28)
    for axis, label in zip(axes, ("recognized, %", "KID x 1000 (lower is better)"), strict=True):
        axis.set(xlabel="evaluations of the denoiser per image", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def open_bench(given: argparse.Namespace) -> _Bench:
    """Read a chain's people, model and scorer."""
    people = choose_people(Manifest.read(given.root / "caption"), "train", given.identities)
    return _Bench(
        str(given.root / "personalize" / "fit-001" / "personalized"),
        Judges(load_scorer(given.root / "score" / "fit-001" / "scorer"), read_pictures(people), kid_features()),
        people,
        read_pictures(choose_people(MiniPerson(given.domain).manifest(), "val", None)),
        Drawing(images=given.images),
        given.work,
    )


def main(argv: list[str] | None = None) -> int:
    """Parse the options, measure every setting, print the table and write table, JSON and picture."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.guidance", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of a finished chain")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/experiments/guidance"), help="folder for all that is kept"
    )
    parser.add_argument("--domain", choices=("campus", "station"), default="campus", help="of MiniPerson")
    parser.add_argument("--identities", type=int, default=48, help="the first so many people")
    parser.add_argument("--images", type=int, default=4, help="of each person")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")
    return run_script(run, parser.parse_args(argv))


def run(given: argparse.Namespace) -> None:
    """Do what the options ask for."""
    bench = open_bench(given)
    found = []
    for setting in settings():
        found.append((setting, measure_setting(bench, setting)))
        print(" | ".join(_row(*found[-1])), flush=True)
    real = measure(bench.people, bench.judges)
    real["kid"] = kernel_distances(bench.judges.features, bench.judges.real, {"val": bench.held_out})["val"]["mean"]
    rows = [_row("real images", {**real, "evaluations": None, "seconds": None})]
    text = table("Sampler settings", _HEADS, [*rows, *(_row(*each) for each in found)])
    print(text)
    (given.work / "guidance.md").write_text(text + "\n", encoding="utf-8")
    write_json(given.work / "guidance.json", {"real": real, "settings": [row for _, row in found]})
    draw_picture(found, given.work / "guidance.png")


def _row(setting: Setting | str, row: dict[str, Any]) -> list[str]:
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
