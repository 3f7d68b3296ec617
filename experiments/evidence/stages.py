"""The stages of the package as steps: from a training subset to what a row is pre-trained on, and the trainings.

Everything upstream reads the manifest that :meth:`Stages.subset` writes, which holds the subset's training rows and no
other: captions, personalization, prior, generation and scores of a row see nothing else.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffreid_lightning.config_files import default_config, find_config, load_config
from diffreid_lightning.datasets import PersonDataset, Subset
from diffreid_lightning.datasets.samplers import PKSampler
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.reid.datamodule import ReIDDataModule
from experiments.evidence.lab import FIRST_RUN, OUT, Lab
from experiments.evidence.plan import LARGE, SMALL, Plan, epochs_for, validation_interval
from experiments.evidence.selection import Order
from experiments.evidence.settings import Settings
from experiments.instruments.pictures import content_key
from experiments.personalization.cells import RARE_TEMPLATE, TEMPLATE

Share = float | None
#: how images are made: the whole method, or without a part of it
Variant = Literal["full", "without LPE", "without DI", "frozen base"]

_HERE = Path(__file__).parent
_UNTRACKED = "--trainer.logger=false"
_ROOT = f"--trainer.default_root_dir={OUT}"
_NEVER = 1_000_000
_CONFIGS = ("caption", "personalize", "generate", "score", "score_generated", "pretrain", "transfer")


class Stages:
    """Asks the lab for what a row needs.

    Args:
        lab: runs the commands.
        plan: sizes.
        base: folder of the text-to-image model.
    """

    def __init__(self, lab: Lab, plan: Plan, base: Path) -> None:
        self.lab = lab
        self.plan = plan
        self.base = base
        self._writing = threading.Lock()

    # Data.

    def source(self, share: Share) -> Subset:
        """The dataset with so much of each identity's training images."""
        return Subset(self.plan.dataset, images=share, seed=self.plan.subset_seed)

    @functools.cache  # noqa: B019 (as long-lived as the program)
    def subset(self, share: Share) -> Path:
        """The subset's training rows as a manifest, in a folder named by its content."""
        whole = self.source(share).manifest()
        rows = whole.filter(np.asarray(whole.numpy("split") == "train", dtype=bool))
        folder = self.lab.work / "subsets" / f"{named(share)}-{rows.content_hash[:10]}"
        with self._writing:
            if not (folder / FILE_NAME).is_file():
                rows.write(folder)
        return folder

    def captioned(self, share: Share) -> Path:
        """The same rows with captions and what they agree on."""
        return self._step(
            "caption", named(share), ["predict", "--config", "stages/caption", f"--data.source={self.subset(share)}"]
        )

    def personalized(self, share: Share, variant: Variant, prior_weight: float) -> Path:
        """A model that knows the subset's identities by name; DI comes after it."""
        words = ["fit", "--config", "stages/personalize", _UNTRACKED, f"--model.model={self.base}"]
        source = self._described(share, variant)
        rows = Manifest.read(source)
        prior = self.plan.prior_images_per_identity
        if variant == "without LPE":  # as DreamBooth has it: rare word and class, no caption, a prior of the class
            coarse = {"images": prior * len(rows.identities()[1]), **_prior_sampling()}
            coarse["cache_dir"] = str(self.lab.work / "cache" / "prior")
            words += ["--model.tokens=RareWord", f"--data.prior={class_words('CoarsePrior', coarse)}"]
            words += [f"--data.template={RARE_TEMPLATE}"]
        else:
            words += [f"--data.prior.init_args.images_per_identity={prior}"]
        batch = self.plan.personalize_batch
        words += [
            f"--data.source={source}",
            f"--data.batch_size={batch}",
            f"--model.prior_weight={prior_weight}",
            f"--trainer.max_epochs={epochs_for(self.plan.personalize_steps, max(1, len(rows) // batch))}",
        ]
        return self._step("personalize", named(share), words) / FIRST_RUN / "personalized"

    def generated(self, share: Share, variant: Variant, prior_weight: float, images: int) -> Path:
        """Images of the subset's identities."""
        words = ["predict", "--config", "stages/generate", f"--data.images_per_identity={images}"]
        words += [f"--data.source={self._described(share, variant)}", f"--data.vocabulary={self.plan.vocabulary}"]
        if variant == "frozen base":
            words += [f"--model.model={self.base}", f"--model.template={TEMPLATE}"]
        else:
            words += [f"--model.model={self.personalized(share, variant, prior_weight)}"]
        if variant == "without DI":
            words += ["--model.diversity=NoDiversity"]
        return self._step("generate", named(share), words)

    def scorer(self, share: Share) -> Path:
        """A network that recognizes the subset's identities."""
        source = str(self.captioned(share))
        words = ["fit", "--config", "stages/score", _UNTRACKED, f"--data.train={source}", *self._batch_words()]
        words += self._length(self.plan.scorer_iterations, self.batches([source]))
        return self._step("score", named(share), words) / FIRST_RUN / "scorer"

    def scored(self, share: Share, variant: Variant, prior_weight: float, images: int) -> Path:
        """The generated images with their scores."""
        words = ["predict", "--config", "stages/score_generated", f"--model.scorer={self.scorer(share)}"]
        words += [f"--data.source={self.generated(share, variant, prior_weight, images)}"]
        return self._step("score_generated", named(share), words)

    def diff_person(self, share: Share, variant: Variant, settings: Settings, images: int) -> Path:
        """Select Diff-Person from scored images."""
        scored = self.scored(share, variant, settings.prior_weight, images)
        return self.selected(share, scored, self.filter_rules(settings))

    def filter_rules(self, settings: Settings) -> list[str]:
        """The filter of the rows, as ``select`` takes it."""
        cut = {"threshold": settings.threshold, "floor": self.plan.floor}
        return [class_words("NearDuplicates", {}), class_words("ThresholdWithFloorAndCap", cut)]

    def unfiltered(self, share: Share, settings: Settings, order: Order | None = None) -> Path:
        """All images, or equally many of everybody in an order of their scores."""
        count = {"images": self.plan.halved, "order": order}
        rules = [] if order is None else [class_words("experiments.evidence.selection.EqualCount", count)]
        scored = self.scored(share, "full", settings.prior_weight, self.plan.images_per_identity)
        return self.selected(share, scored, rules)

    def selected(self, share: Share, scored: Path, rules: Sequence[str]) -> Path:
        """Apply selection rules to scored images."""
        words = ["select", f"--scored={scored}", f"--out={OUT}/selection", f"--rules=[{', '.join(rules)}]"]
        step = self._step("select", named(share), [*words, "--tracker=null"], rooted=False)
        return step / "selection" / "diff_person"

    # Trainings.

    def pretrained(
        self,
        name: str,
        sources: Sequence[Any],
        iterations: int,
        seed: int,
        *,
        backbone: str = SMALL,
        init_from: str | None = None,
        generated_share: float | None = None,
    ) -> Path:
        """A backbone trained with labels on sources: paths, or classes with their arguments."""
        words = ["fit", "--config", "stages/pretrain", "--config", str(_HERE / "reid.yaml")]
        words += [*self._length(iterations, self.batches(sources)), f"--data.train={json.dumps(list(sources))}"]
        words += [*self._batch_words(), *_network(backbone, init_from), f"--seed_everything={seed}"]
        if generated_share is not None:
            words += [f"--data.sampler.init_args.generated_share={generated_share}"]
        return self._step(f"pretrain-{name}", f"seed{seed}", words) / FIRST_RUN / "backbone"

    def self_supervised(self, source: Path, iterations: int, seed: int) -> Path:
        """A backbone trained on the images of a manifest without their labels."""
        size = self.plan.identities_per_batch * self.plan.images_per_batch_identity
        words = ["fit", "--config", "stages/pretrain", "--config", str(_HERE / "reid.yaml")]
        words += [
            "--config",
            str(_HERE / "self_supervised.yaml"),
            f"--data.train={source}",
            f"--seed_everything={seed}",
        ]
        words += [f"--data.sampler.init_args.batch_size={size}", f"--data.sampler.init_args.seed={seed}"]
        words += self._length(iterations, max(1, len(Manifest.read(source)) // size))
        return self._step("pretrain-self_supervised", f"seed{seed}", words) / FIRST_RUN / "backbone"

    def tuned(
        self,
        name: str,
        share: Share,
        iterations: int,
        rate: float,
        seed: int,
        *,
        backbone: str,
        init_from: str | None,
        test: bool,
    ) -> Path:
        """A network trained on the subset's real images; ``test`` reads query and gallery at its end."""
        source = self.described_subset(share)
        words = ["fit", "--config", "stages/transfer", "--config", str(_HERE / "reid.yaml")]
        words += [f"--data.train={json.dumps(source)}", f"--data.test={self.plan.dataset}"]
        words += self._length(iterations, self.batches([source]), validations=self.plan.validations)
        words += [*self._batch_words(), *_network(backbone, init_from)]
        words += [f"--model.optimizer.init_args.lr={rate}", f"--seed_everything={seed}"]
        words += [f"--test_with={'last' if test else 'none'}"]
        return self._step(f"transfer-{name}", f"{named(share)}-seed{seed}", words)

    def described_subset(self, share: Share) -> dict[str, Any]:
        """The subset with its held-out identities, query and gallery, as the command line takes it."""
        arguments = {"dataset": self.plan.dataset, "identities": None, "images": share, "seed": self.plan.subset_seed}
        return {"class_path": "Subset", "init_args": arguments}

    def batches(self, sources: Sequence[Any]) -> int:
        """Count the batches of an epoch over sources."""
        return self._batches(json.dumps(list(sources), default=str))

    @functools.cache  # noqa: B019
    def _batches(self, sources: str) -> int:
        opened: list[PersonDataset | str] = [
            Subset(**source["init_args"]) if isinstance(source, dict) else str(source) for source in json.loads(sources)
        ]
        labels = ReIDDataModule(opened, val_share=None).train_set.rows.labels.tolist()
        sampler = PKSampler(labels, self.plan.identities_per_batch, self.plan.images_per_batch_identity)
        return len(sampler) // sampler.batch_size

    def _described(self, share: Share, variant: Variant) -> Path:
        return self.subset(share) if variant == "without LPE" else self.captioned(share)

    def _length(self, iterations: int, batches: int, validations: int | None = None) -> list[str]:
        """Return the options for training length and validation interval."""
        of_epoch = min(batches, self.plan.epoch_batches)
        epochs = epochs_for(iterations, of_epoch)
        interval = _NEVER if validations is None else validation_interval(epochs, validations)
        return [
            f"--trainer.max_epochs={epochs}",
            f"--trainer.limit_train_batches={of_epoch}",
            f"--trainer.check_val_every_n_epoch={interval}",
        ]

    def _batch_words(self) -> list[str]:
        sampler = "--data.sampler.init_args"
        return [
            f"{sampler}.identities_per_batch={self.plan.identities_per_batch}",
            f"{sampler}.images_per_identity={self.plan.images_per_batch_identity}",
        ]

    def _step(self, stage: str, label: str, words: Sequence[str], *, rooted: bool = True) -> Path:
        more = self.plan.more.get(stage.partition("-")[0], ())
        return self.lab.step(f"{stage}-{label}", [*words, *([_ROOT] if rooted else []), *more])


def configs_key() -> str:
    """Hash what the stages' configs say."""
    files = [find_config(f"stages/{name}") for name in _CONFIGS]
    files += [default_config("fit"), default_config("select"), *sorted(_HERE.glob("*.yaml"))]
    return content_key([load_config(file) for file in files])


def _prior_sampling() -> dict[str, Any]:
    """Return the arguments by which the shipped config samples prior images, the same for both kinds."""
    config: Any = load_config(find_config("stages/personalize"))
    shipped = config["data"]["init_args"]["prior"]["init_args"]
    return {name: shipped[name] for name in ("steps", "guidance", "scheduler")}


def named(share: Share) -> str:
    """Name a share in folders and tables."""
    return "all" if share is None else f"{round(100 * share)}pct"


def class_words(name: str, arguments: dict[str, Any]) -> str:
    """A class and its arguments as the command line takes them."""
    return json.dumps({"class_path": name, "init_args": arguments})


def _network(backbone: str, init_from: str | None) -> list[str]:
    words = [f"--model.backbone={backbone}", f"--model.init_from={'null' if init_from is None else init_from}"]
    # ImageNet's features are of larger images than the small network is trained on.
    return [*words, "--data.image_size=[96,48]"] if backbone == LARGE else words
