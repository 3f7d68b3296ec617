"""Cells of the factorial over LPE: what they differ in, what they share, and how one is trained and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.lr_schedule import Schedule
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.callbacks import FOLDER, PersonalizationExport
from diffreid_lightning.personalization.datamodule import PersonalizationDataModule
from diffreid_lightning.personalization.identity_features import IdentityFeatures
from diffreid_lightning.personalization.identity_tokens import FreeTokens, IdentityTokens, MappedTokens, RareWord
from diffreid_lightning.personalization.lora import LoRA
from diffreid_lightning.personalization.module import Personalization
from diffreid_lightning.personalization.prior_images import CoarsePrior, FineGrainedPrior, PriorImages, Words
from diffreid_lightning.personalization.row_adamw import RowAdamW
from experiments.instruments.devices import elsewhere, wait_for
from experiments.instruments.known_people import quiet_trainer, without_words
from experiments.instruments.pictures import SIZE, content_key
from experiments.instruments.report import write_json

TokenKind = Literal["rare", "free", "mapped"]
PriorKind = Literal["none", "coarse", "fine"]

TEMPLATE = "{identity}, {description}, {circumstances}"
RARE_TEMPLATE = "{identity} person, {description}, {circumstances}"  # DreamBooth writes word and class (section 3.1)
_NOTE = "training.json"


@dataclass(frozen=True)
class Cell:
    """One cell of the factorial.

    Args:
        caption: whether the prompts of training and generation describe the person.
        tokens: a frozen rare word, a free embedding, or a mapper from image features.
        prior: no prior images, those of one coarse prompt, or those of everybody's own captions.
    """

    caption: bool
    tokens: TokenKind
    prior: PriorKind

    @property
    def label(self) -> str:
        """Return its label in tables, such as ``caption free fine``."""
        return f"{'caption' if self.caption else 'wordless'} {self.tokens} {self.prior}"


FULL = Cell(caption=True, tokens="free", prior="fine")
DREAMBOOTH = Cell(caption=False, tokens="rare", prior="coarse")
CELLS: tuple[Cell, ...] = tuple(
    Cell(caption, tokens, prior)
    for caption in (True, False)
    for tokens in ("free", "mapped", "rare")
    for prior in ("fine", "coarse", "none")
)


def is_key(cell: Cell) -> bool:
    """Return true if a cell is plain DreamBooth, or differs from full LPE in one factor at most."""
    differences = sum(getattr(cell, name) != getattr(FULL, name) for name in ("caption", "tokens", "prior"))
    return differences <= 1 or cell == DREAMBOOTH


@dataclass(frozen=True)
class Settings:
    """Settings that all cells of a table share, chosen on ``val`` identities.

    Args:
        steps: of the optimizer.
        images_per_step: evaluations of the denoiser in a step, the same in every cell.
        prior_share: share of them that goes to prior images, in cells that have such.
        rank: of the LoRA.
        vectors: of an identity, where they are trained.
        rate: learning rate of the LoRA.
        token_rate: learning rate of free embeddings.
        mapper_rate: learning rate of the mapper.
        schedule: course of the learning rates.
        snr_gamma: of min-SNR weighting; None weighs timesteps alike.
        averaged: decay of the weights' moving average.
        prior_per_person: prior images for each person.
        prior_steps: sampler steps of a prior image.
        guidance: classifier-free guidance scale of prior images.
        precision: of the training.
    """

    steps: int = 640
    images_per_step: int = 20
    prior_share: float = 1 / 5
    rank: int = 16
    vectors: int = 2
    rate: float = 1e-3
    token_rate: float = 1e-1
    mapper_rate: float = 1e-3
    schedule: Schedule = "constant_with_warmup"
    snr_gamma: float | None = None
    averaged: float = 0.95
    prior_per_person: int = 2
    prior_steps: int = 16
    guidance: float = 1.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def split(self, prior: PriorKind) -> tuple[int, int]:
        """Images of people and prior images in a step."""
        shown = 0 if prior == "none" else round(self.prior_share * self.images_per_step)
        return self.images_per_step - shown, shown


@dataclass(frozen=True)
class Trained:
    """A personalized model.

    Args:
        folder: where it lies.
        seconds: time of the optimizer's steps.
        losses: mean loss on images of people in each tenth of the steps.
    """

    folder: Path
    seconds: float
    losses: list[float]


class CaptionedPrior(FineGrainedPrior):
    """The fine-grained prior whose prompts come from captions that the cell itself may not see.

    Args:
        people: for each person the words of its images.
        images_per_identity: prompts of each.
        arguments: further ones of :class:`FineGrainedPrior`.
    """

    def __init__(self, people: Sequence[Sequence[Words]], images_per_identity: int, **arguments: Any) -> None:
        super().__init__(images_per_identity, **arguments)
        self._people = people

    def prompts(self, people: Sequence[Sequence[Words]], template: PromptTemplate, seed: int) -> list[str]:
        """Describe everybody in the words of the captions, in every cell alike."""
        return super().prompts(self._people, PromptTemplate(TEMPLATE), seed)


class StepClock(Callback):
    """Times the optimizer's steps and keeps their losses."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._losses: list[Tensor] = []  # read at the end: on a GPU every look at a number waits for it
        self._started = 0.0

    @property
    def losses(self) -> list[float]:
        """Loss on images of people in each step."""
        return [float(loss) for loss in self._losses]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        wait_for(pl_module.device)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep the loss on images of people."""
        self._losses.append(trainer.callback_metrics["train/identity_loss"].detach())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, before anything is exported."""
        wait_for(pl_module.device)
        self.seconds = time.perf_counter() - self._started


def personalize(base: Path, people: Manifest, cell: Cell, settings: Settings, seed: int, work: Path) -> Trained:
    """Train a cell, or find it trained; a killed training starts again.

    Args:
        base: folder of the base model.
        people: captioned images of everybody.
        cell: what is particular.
        settings: what is shared.
        seed: of the training.
        work: folder where the models are kept, under the content of all of these.
    """
    key = content_key(
        weights_hash(locate_pipeline(base)),
        people.content_hash,
        asdict(cell),
        asdict(settings),
        seed,
        SIZE,
        *elsewhere(),
    )
    run = work / "personalized" / key
    if not (run / _NOTE).exists():
        clock = _train(base, people, cell, settings, seed, work, run)
        losses = [float(np.mean(part)) for part in np.array_split(clock.losses, 10) if len(part)]
        write_json(run / _NOTE, {"cell": cell.label, "seed": seed, "seconds": clock.seconds, "losses": losses})
    note = json.loads((run / _NOTE).read_text(encoding="utf-8"))
    return Trained(run / FOLDER, note["seconds"], note["losses"])


def _train(base: Path, people: Manifest, cell: Cell, settings: Settings, seed: int, work: Path, run: Path) -> StepClock:
    seed_everything(seed, verbose=False)
    shown = people if cell.caption else without_words(people, work)
    source = run / "people"
    shown.write(source)
    batch_size, prior_batch_size = settings.split(cell.prior)
    data = PersonalizationDataModule(
        source=str(source),
        model=str(base),
        template=RARE_TEMPLATE if cell.tokens == "rare" else TEMPLATE,
        prior=_prior(people, cell.prior, settings, work),
        prior_batch_size=prior_batch_size,
        image_size=SIZE,
        batch_size=batch_size,
        cache_dir=str(work / "cache" / "latents"),
        seed=seed,
    )
    module = Personalization(
        model=str(base),
        tokens=_tokens(cell.tokens, settings, work),
        fine_tuning=LoRA(settings.rank),
        image_size=SIZE,
        snr_gamma=settings.snr_gamma,
        schedule=settings.schedule,
        warmup_steps=min(20, settings.steps // 4),
        token_lr=settings.mapper_rate if cell.tokens == "mapped" else settings.token_rate,
        optimizer=lambda groups: RowAdamW(groups, lr=settings.rate, weight_decay=1e-2),
    )
    clock = StepClock()
    callbacks = [EMAWeightAveraging(fastest_device(), decay=settings.averaged), clock, PersonalizationExport()]
    trainer = quiet_trainer(
        callbacks,
        max_steps=settings.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        default_root_dir=run,
        limit_val_batches=0,
        precision=settings.precision,
    )
    trainer.fit(module, datamodule=data)
    return clock


def _tokens(kind: TokenKind, settings: Settings, work: Path) -> IdentityTokens:
    if kind == "rare":
        return RareWord(word=None)  # as in the results that are kept
    if kind == "free":
        return FreeTokens(vectors=settings.vectors)
    features = IdentityFeatures(image_size=SIZE, cache_dir=str(work / "cache" / "features"))
    return MappedTokens(features, vectors=settings.vectors)


def _prior(people: Manifest, kind: PriorKind, settings: Settings, work: Path) -> PriorImages | None:
    arguments: dict[str, Any] = {
        "steps": settings.prior_steps,
        "guidance": settings.guidance,
        "scheduler": "DPMSolverMultistepScheduler",
        "cache_dir": str(work / "cache" / "prior"),
    }
    labels, keys = people.identities()
    if kind == "coarse":
        return CoarsePrior(len(keys) * settings.prior_per_person, **arguments)
    if kind == "none":
        return None
    words: list[list[Words]] = [[] for _ in keys]
    columns = (people.table[name].to_pylist() for name in ("description", "circumstances"))
    for label, description, circumstances in zip(labels.tolist(), *columns, strict=True):
        words[label].append((description or "", circumstances or ""))
    return CaptionedPrior(words, settings.prior_per_person, **arguments)
