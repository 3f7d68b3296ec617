"""Images of people by a personalized model: drawn by the package's own stage, with the time it took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.datamodule import PromptsDataModule
from diffreid_lightning.generation.diversity import Diversity
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.generation.vocabulary import Vocabulary
from diffreid_lightning.generation.writer import GeneratedImagesWriter
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from experiments.instruments.devices import elsewhere
from experiments.instruments.known_people import quiet_trainer
from experiments.instruments.pictures import SIZE, content_key

_CLOCK = "seconds.jsonl"


@dataclass(frozen=True)
class Drawing:
    """Settings by which images of people are generated.

    Args:
        images: of each person.
        evaluations: of the denoiser for each image, the same under every strategy.
        guidance: scale of classifier-free guidance.
        batch_size: images at a time.
        scheduler: the sampler, by its name in diffusers.
        vocabulary: of the attributes that are asked for.
        dtype: precision of the networks.
    """

    images: int = 8
    evaluations: int = 32
    guidance: float = 4.0
    batch_size: int = 32
    scheduler: str = "DPMSolverMultistepScheduler"
    vocabulary: str = "rendered"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def content(self) -> dict[str, Any]:
        """Return the settings that images depend on, as plain JSON values."""
        phrases = Vocabulary.read(self.vocabulary).phrases
        return {**asdict(self), "vocabulary": {name: list(words) for name, words in phrases.items()}}


@dataclass(frozen=True)
class Drawn:
    """Images that were drawn.

    Args:
        manifest: of the images; the column ``attributes`` says what each was asked to have.
        images_per_second: from prompts to JPEG files.
        fastest: seconds per image of the fastest batch, which other work on the machine slowed down least.
        steps: of the sampler.
        evaluations: of the denoiser for each image.
    """

    manifest: Manifest
    images_per_second: float
    fastest: float
    steps: int
    evaluations: int


def steps_for(diversity: Diversity, drawing: Drawing) -> int:
    """The most sampler steps that do not cost more evaluations of the denoiser than an image may have.

    Raises:
        UserError: not even one step is that cheap.
    """
    affordable = [
        steps
        for steps in range(1, 4 * drawing.evaluations)
        if diversity.evaluations(steps, drawing.guidance) <= drawing.evaluations
    ]
    if not affordable:
        raise UserError(f"{drawing.evaluations} evaluations of the denoiser do not make an image.")
    return affordable[-1]


class BatchClock(Callback):
    """Notes the seconds of every batch in a file, a line each, so that the time of a killed run counts as well.

    Place it behind the writer, whose work it counts too: encoding the images as JPEG, and the manifest.

    Args:
        file: where to.
        clock: seconds so far, of the wall or of the processor.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self.file = file
        self.clock = clock
        self._mark = 0.0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._mark = self.clock()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Note a batch."""
        self._note(len(outputs.images))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what was left to do behind the last batch."""
        if self._mark:
            self._note(0)

    def _note(self, images: int) -> None:
        now = self.clock()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"seconds": now - self._mark, "images": images}) + "\n")
        self._mark = now


def read_notes(lines: str) -> list[dict[str, float]]:
    """Read the notes of :class:`BatchClock`; a line that a kill cut short does not count."""
    notes = []
    for line in lines.splitlines():
        try:
            notes.append(json.loads(line))
        except ValueError:
            continue
    return notes


def rate_of(lines: str) -> float:
    """Images per second from the notes of :class:`BatchClock`."""
    notes = read_notes(lines)
    return float(sum(note["images"] for note in notes) / sum(note["seconds"] for note in notes))


def fastest_of(lines: str) -> float:
    """Seconds per image of the fastest batch in the notes of :class:`BatchClock`."""
    return min(note["seconds"] / note["images"] for note in read_notes(lines) if note["images"])


def draw_people(model: Path, people: Manifest, diversity: Diversity, drawing: Drawing, seed: int, work: Path) -> Drawn:
    """Draw everybody, or read what was drawn before; a killed run goes on with the batch it was at.

    Args:
        model: folder of a personalized model, or of its base.
        people: captioned images of everybody.
        diversity: the strategy of Diversity Injection.
        drawing: how.
        seed: of design and noise.
        work: folder where the images are kept, under the content of all of these.
    """
    module = GenerationModule(
        model=str(model),
        image_size=SIZE,
        scheduler=drawing.scheduler,
        steps=steps_for(diversity, drawing),
        guidance=drawing.guidance,
        diversity=diversity,
        dtype=drawing.dtype,
    )
    return draw_with(module, people, drawing, seed, work)


def draw_with(
    module: GenerationModule,
    people: Manifest,
    drawing: Drawing,
    seed: int,
    work: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> Drawn:
    """Draw everybody by a module, which has settings of its own; images and batch size are the drawing's.

    Args:
        module: a generation module.
        people: captioned images of everybody.
        drawing: how many images, of which vocabulary.
        seed: of design and noise.
        work: folder where the images are kept, under the content of all of these and the number of threads.
        clock: by which the images per second are taken.
    """
    diversity = module.diversity
    of_images = module.cache_key, people.content_hash, drawing.content, seed
    of_time = torch.get_num_threads(), *elsewhere()
    folder = work / "drawn" / content_key(*of_images, *of_time)
    if not (folder / FILE_NAME).exists():
        people.write(folder / "people")
        data = PromptsDataModule(
            source=str(folder / "people"),
            vocabulary=drawing.vocabulary,
            images_per_identity=drawing.images,
            references=diversity.uses_reference,
            image_size=SIZE,
            batch_size=drawing.batch_size,
            seed=seed,
        )
        writer = GeneratedImagesWriter(str(folder), threads=1)
        trainer = quiet_trainer([writer, BatchClock(folder / _CLOCK, clock)])
        trainer.predict(module, datamodule=data, return_predictions=False)
    notes = (folder / _CLOCK).read_text(encoding="utf-8")
    return Drawn(Manifest.read(folder), rate_of(notes), fastest_of(notes), module.sampler.steps, module.evaluations)
