"""Share options, identities, instruments and cached measurements between the scripts about stage 1."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.diversity import Diversity
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage import locks
from experiments.generator.tiny_sd import kid_features
from experiments.instruments.attribute_reader import train_classifier
from experiments.instruments.devices import device_name
from experiments.instruments.drawing import Drawing, draw_people
from experiments.instruments.drift import MEASURES, measure_drift
from experiments.instruments.judge import load_judge
from experiments.instruments.known_people import caption_people, choose_people
from experiments.instruments.measures import Instruments, Portrayed, measure, portrayed
from experiments.instruments.pictures import content_key
from experiments.instruments.recognition import nearest_person
from experiments.instruments.report import write_json
from experiments.instruments.scene_reader import train_scene_reader
from experiments.personalization.cells import Cell, Settings, personalize

Item = TypeVar("Item")


@dataclass(frozen=True)
class Bench:
    """All that a table is made with.

    Args:
        base: folder of the base model.
        people: captioned images of the people who are taught.
        real: the same images.
        world: the corpus that the base model learnt from.
        instruments: what measures.
        settings: of the training.
        drawing: of the images.
        nobody: prompts without a name that drift is measured on.
        work: folder for all that is kept.
        fingerprint: of instruments and corpus, which results follow from as well.
        earlier: results that another machine measured with instruments of the same recipe, by what was done.
    """

    base: Path
    people: Manifest
    real: Portrayed
    world: Manifest
    instruments: Instruments
    settings: Settings
    drawing: Drawing
    nobody: int
    work: Path
    fingerprint: str
    earlier: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def read_earlier(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Collect the results in files that a script wrote, by what was done for them.

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            left = [json.loads(file.read_text(encoding="utf-8"))]
        except (OSError, ValueError) as error:
            raise UserError(f"Earlier results cannot be read from {file}", found=str(error)) from error
        while left:
            node = left.pop()
            if isinstance(node, dict) and "done" in node:
                found[node["done"]] = node
            elif isinstance(node, dict):
                left += node.values()
    return found


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Let the processes that share a table's cells do something one after the other, and find it done."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = locks.take(file, patience=math.inf)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def kept(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a result, or compute it and write it down whole; who comes to it at the same time waits."""
    with in_turn(file.with_name(f".{file.stem}.turn")):
        if not file.exists():
            write_json(file, compute())
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def measure_cell(
    bench: Bench, cell: Cell, diversity: Diversity, seed: int, drift: bool = False, label: str | None = None
) -> dict[str, Any]:
    """Train a cell, draw everybody and measure the images; what is finished is read.

    Args:
        bench: what it is done with.
        cell: how the model is personalized.
        diversity: how images are drawn.
        seed: of training, design and noise.
        drift: measure prompts without a name too.
        label: what to call it while it runs; None takes the cell's.

    Returns:
        What :func:`~experiments.instruments.measures.measure` gives, with ``images_per_second``, ``steps``,
        ``evaluations``, ``training_seconds``, ``losses``, ``folder`` (the images' in ``drawn``), ``device``, ``done``
        (all that it follows from but instruments and device, hashed) and, if asked for, what
        :func:`~experiments.instruments.drift.measure_drift` gives, each name behind ``drift_``.
    """
    label = label or cell.label
    strategy = [type(diversity).__name__, diversity.settings]
    done = content_key(
        weights_hash(locate_pipeline(bench.base)),
        bench.people.content_hash,
        asdict(cell),
        asdict(bench.settings),
        strategy,
        bench.drawing.content,
        [bench.nobody, *MEASURES] if drift else 0,
        seed,
    )
    if done in bench.earlier:
        return bench.earlier[done]

    def compute() -> dict[str, Any]:
        print(f"{label}, seed {seed}", flush=True)
        with in_turn(bench.work / "turns" / f"{cell.label.replace(' ', '-')}-{seed}"):
            trained = personalize(bench.base, bench.people, cell, bench.settings, seed, bench.work)
        drawn = draw_people(trained.folder, bench.people, diversity, bench.drawing, seed, bench.work)
        found = {
            **measure(portrayed(drawn.manifest), bench.real, bench.instruments),
            "images_per_second": drawn.images_per_second,
            "steps": drawn.steps,
            "evaluations": drawn.evaluations,
            "training_seconds": trained.seconds,
            "losses": trained.losses,
            "folder": drawn.manifest.root.name,
            "device": device_name(),
            "done": done,
        }
        if drift:
            found |= {f"drift_{name}": value for name, value in drift_of(bench, trained.folder).items()}
        return found

    return kept(
        bench.work / "results" / f"{label.replace(' ', '-')}-{seed}-{content_key(done, bench.fingerprint)}.json",
        compute,
    )


def drift_of(bench: Bench, model: Path) -> dict[str, float]:
    """Measure a model's images of prompts without a name, see :func:`~experiments.instruments.drift.measure_drift`."""
    return measure_drift(
        model,
        bench.base,
        bench.world,
        bench.nobody,
        bench.drawing,
        bench.instruments.attributes,
        bench.instruments.features,
        bench.work,
    )


def add_options(parser: argparse.ArgumentParser, work: str) -> None:
    """Add what the scripts have in common; the training's settings are options of the same names."""
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, a trained tiny-sd")
    parser.add_argument("--world", type=Path, required=True, help="the rendered corpus that it learnt from")
    parser.add_argument("--judge", type=Path, default=Path("runs/experiments/judge"), help="work folder of the judge")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for all that is kept")
    parser.add_argument("--domain", choices=("campus", "station"), default="campus", help="of MiniPerson")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="val to choose settings on")
    parser.add_argument("--identities", type=int, default=None, help="the first so many people; all by default")
    parser.add_argument("--images", type=int, default=Drawing.images, help="of each person")
    parser.add_argument("--evaluations", type=int, default=Drawing.evaluations, help="of the denoiser for an image")
    parser.add_argument("--draw-batch-size", type=int, default=Drawing.batch_size, help="images drawn at a time")
    parser.add_argument("--draw-guidance", type=float, default=Drawing.guidance, help="of the images of people")
    parser.add_argument("--draw-dtype", choices=("float32", "bfloat16"), default=Drawing.dtype, help="of the networks")
    parser.add_argument("--nobody", type=int, default=500, help="prompts without a name")
    parser.add_argument("--attribute-epochs", type=int, default=30, help="of the classifier of attributes")
    parser.add_argument("--scene-epochs", type=int, default=8, help="of the reader of scenes")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="results of other machines, to go on from")
    hints = get_type_hints(Settings)
    for each in fields(Settings):
        kind = float if each.name == "snr_gamma" else type(each.default)
        choices = get_args(hints[each.name]) if get_origin(hints[each.name]) is Literal else None
        parser.add_argument(
            f"--{each.name.replace('_', '-')}", type=kind, choices=choices, default=each.default, help="of training"
        )


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options by which several processes share the cells of a table."""
    parser.add_argument("--part", type=int, default=1, help="which of several processes this is, from 1")
    parser.add_argument("--parts", type=int, default=1, help="processes that share the cells; then once more without")


def own_part(cells: Sequence[Item], given: argparse.Namespace) -> Sequence[Item]:
    """Return the cells that this process is to see to: every so-manieth.

    Raises:
        UserError: there is no such part.
    """
    if not 1 <= given.part <= given.parts:
        raise UserError(f"There is no part {given.part} of {given.parts}.", looked_for="--part from 1 to --parts")
    return cells[given.part - 1 :: given.parts]


def results_file(name: str, given: argparse.Namespace) -> Path:
    """Name the file that a process writes its results to."""
    part = f"-{given.part}-of-{given.parts}" if getattr(given, "parts", 1) > 1 else ""
    return Path(given.work) / f"{name}-{given.split}{part}.json"


def settings_of(given: argparse.Namespace) -> Settings:
    """Collect the training's settings from the options."""
    return Settings(**{each.name: getattr(given, each.name) for each in fields(Settings)})


def open_bench(given: argparse.Namespace, vocabulary: str) -> Bench:
    """Read people and corpus, and train or load what measures.

    Args:
        given: the options of :func:`add_options`.
        vocabulary: of the attributes that images are asked to have.

    Raises:
        UserError: something is missing.
    """
    world = Manifest.read(given.world)
    everybody = MiniPerson(given.domain).manifest()
    rows = choose_people(everybody, given.split, given.identities)
    with in_turn(given.work / "turns" / "opening"):
        instruments, fingerprint = _instruments(given, world, everybody, rows)
        people = caption_people(rows, given.work)
    drawing = replace(
        Drawing(),
        images=given.images,
        evaluations=given.evaluations,
        guidance=given.draw_guidance,
        vocabulary=vocabulary,
        dtype=given.draw_dtype,
        batch_size=given.draw_batch_size,
    )
    return Bench(
        given.base,
        people,
        portrayed(people),
        world,
        instruments,
        settings_of(given),
        drawing,
        given.nobody,
        given.work,
        fingerprint,
        read_earlier(given.earlier),
    )


def _instruments(
    given: argparse.Namespace, world: Manifest, everybody: Manifest, rows: Manifest
) -> tuple[Instruments, str]:
    judge, known = load_judge(given.judge)
    of_people = everybody.numpy("role") == "identity"
    in_training = (everybody.numpy("split") == "train") | (everybody.numpy("split") == "val")
    among = everybody.filter((of_people & in_training).astype(bool))
    nearest = nearest_person(judge, known, rows.identities()[1], among)
    attributes = train_classifier(world, given.work, given.attribute_epochs).network
    scenes = train_scene_reader(world, given.work, given.scene_epochs).network
    weights = [float(parameter.detach().cpu().double().sum()) for parameter in judge.parameters()]
    key = content_key(world.content_hash, given.attribute_epochs, given.scene_epochs, weights, nearest.way)
    return Instruments(nearest, attributes, scenes, kid_features()), key
