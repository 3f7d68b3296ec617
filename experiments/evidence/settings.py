"""Choose settings on the held-out identities, before query and gallery are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from diffreid_lightning.errors import UserError
from experiments.instruments.report import write_json

FILE = "settings.json"


@dataclass(frozen=True)
class Settings:
    """Settings of the rows; the values here are where the search starts.

    Args:
        prior_weight: lambda, the weight of the prior images in personalization.
        threshold: confidence below which a generated image is not used.
        generated_share: share of generated images in the batches of pre-training; None: generated images alone.
        pretrain_iterations: batches of pre-training.
        scratch_iterations: batches of training from random weights.
        tune_iterations: batches of fine-tuning.
        tune_rate: learning rate of fine-tuning.
        large_pretrain_iterations: batches of pre-training of the large backbone.
        large_scratch_iterations: batches of training the large backbone from random weights.
        large_tune_iterations: batches of fine-tuning the large backbone.
        large_tune_rate: its learning rate.
    """

    prior_weight: float = 1.0
    threshold: float = 0.03
    generated_share: float | None = None
    pretrain_iterations: int = 600
    scratch_iterations: int = 300
    tune_iterations: int = 300
    tune_rate: float = 1.5e-3
    large_pretrain_iterations: int = 150
    large_scratch_iterations: int = 160
    large_tune_iterations: int = 120
    large_tune_rate: float = 2e-3


class Question(NamedTuple):
    """Question about one setting, with its candidate values."""

    setting: str  #: field of :class:`Settings`
    row: str  #: whose mAP on the held-out identities answers it
    candidates: tuple[Any, ...]


#: in this order, each with what was chosen before it
QUESTIONS = (
    Question("scratch_iterations", "scratch", (150, 300, 600)),
    Question("large_scratch_iterations", "large: scratch", (80, 160)),
    Question("large_tune_iterations", "large: ImageNet", (60, 120)),
    Question("large_tune_rate", "large: ImageNet", (1e-3, 2e-3)),
    Question("threshold", "Diff-Person", (0.01, 0.03, 0.1, 0.3)),
    Question("generated_share", "Diff-Person", (None, 0.5)),
    Question("prior_weight", "Diff-Person", (0.5, 1.0)),
    Question("pretrain_iterations", "Diff-Person", (300, 600)),
    Question("tune_iterations", "Diff-Person", (150, 300, 600)),
    Question("tune_rate", "Diff-Person", (5e-4, 1.5e-3)),
)


class Trial(NamedTuple):
    """One answer."""

    setting: str
    value: Any
    val_mAP: float
    chosen: bool


def search(
    start: Settings,
    questions: Sequence[Question],
    measure: Callable[[str, Sequence[Settings]], Sequence[float]],
) -> tuple[Settings, list[Trial]]:
    """Choose one setting after the other, the rest as they are by then.

    Args:
        start: where to start.
        questions: in order.
        measure: mean mAP of a row on the held-out identities, for each of several settings.

    Returns:
        The chosen settings, and what was measured. Of equals the first candidate is chosen.
    """
    chosen, trials = start, []
    for setting, row, candidates in questions:
        tried = [replace(chosen, **{setting: value}) for value in candidates]
        scores = list(measure(row, tried))
        best = max(range(len(tried)), key=scores.__getitem__)
        values = zip(candidates, scores, strict=True)
        trials += [Trial(setting, value, score, number == best) for number, (value, score) in enumerate(values)]
        chosen = tried[best]
    return chosen, trials


def save(file: Path, chosen: Settings, trials: Sequence[Trial], inputs: Mapping[str, Any]) -> None:
    """Write down what was chosen, from what, and for which inputs."""
    content = {
        "settings": asdict(chosen),
        "trials": [trial._asdict() for trial in trials],
        "inputs": dict(inputs),
    }
    write_json(file, content)


def load(file: Path, inputs: Mapping[str, Any]) -> tuple[Settings, list[Trial]]:
    """Read what was chosen.

    Args:
        file: what :func:`save` wrote.
        inputs: those of now.

    Raises:
        UserError: nothing was chosen, the file is damaged, or it was chosen for other inputs.
    """
    remedy = "choose on the held-out identities first: the same command with --choose"
    if not file.is_file():
        raise UserError("The settings have not been chosen yet.", looked_for=str(file), remedy=remedy)
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        chosen = Settings(**{field.name: read["settings"][field.name] for field in fields(Settings)})
        trials = [Trial(**trial) for trial in read["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged.", found=f"{type(error).__name__}: {error}", remedy=remedy) from error
    if read.get("inputs") != dict(inputs):
        raise UserError(
            f"{file} was chosen for other inputs.",
            looked_for=json.dumps(dict(inputs), sort_keys=True),
            found=json.dumps(read.get("inputs"), sort_keys=True),
            remedy="give another --work, or " + remedy,
        )
    return chosen, trials
