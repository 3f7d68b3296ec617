"""Say what to change in a chain, by the shares and costs of its rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffreid_lightning.pipeline.rehearsal import WITH_FLOOR, arguments_of, class_name, last_rule
from diffreid_lightning.pipeline.rehearsal_costs import StageCost

_MOST = 3
# Of all images of "Two images of each person" in docs/results/pretraining.md, with which pre-training was worth it.
_RECOGNIZED, _CONSISTENT = 0.426, 0.767
# "Which images to pre-train on" in docs/results/pretraining.md: half of the images or less were worse than most.
_KEPT = 0.6
_FLOOR = 0.75  # of each identity's images, as in stages/select
_COST = "On renders, keeping half of the images cost 5 to 10 mAP, 5 % of them 20 (single runs)."
_LOST = 0.1  # not measured
_NEARLY_FULL = 0.9  # of a GPU's memory; not measured


class Suggestion(NamedTuple):
    """A change of a stage's command."""

    stage: str
    flags: str  #: added to its ``run``
    why: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.flags}\n   {self.why}"


class Found(NamedTuple):
    """Shares that a rehearsal has found, 0 to 1."""

    recognized: float
    consistent: float | None
    kept: float
    lost: float  #: share of the identities without a kept image


def suggest(
    found: Found, costs: Sequence[StageCost], settings: Mapping[str, Mapping[str, Any]], images_per_identity: int
) -> list[Suggestion]:
    """Suggest at most three changes, the most pressing first.

    Args:
        found: the shares.
        costs: of the stages.
        settings: settings of each stage as the chain has them, by name.
        images_per_identity: images that the chain generates of each.
    """
    chosen = _selection(found, settings.get("select", {}), images_per_identity)
    agrees = found.consistent is not None and found.consistent >= _CONSISTENT
    made = [
        *_memory(costs, settings),
        *(chosen if agrees or found.recognized >= _RECOGNIZED else []),
        *(_recognition(found, costs, settings) if found.recognized < _RECOGNIZED else []),
    ]
    return made[:_MOST]


def _memory(costs: Sequence[StageCost], settings: Mapping[str, Mapping[str, Any]]) -> list[Suggestion]:
    full = [each for each in costs if each.peak_gib and each.gpu_gib and each.peak_gib > _NEARLY_FULL * each.gpu_gib]
    return [
        Suggestion(
            each.name,
            _less_memory(each.name, settings.get(each.name, {})),
            f"It came to {each.peak_gib:.1f} of the GPU's {each.gpu_gib:.1f} GiB.",
        )
        for each in full
    ]


def _less_memory(stage: str, settings: Mapping[str, Any]) -> str:
    data, model = arguments_of(settings.get("data")), arguments_of(settings.get("model"))
    if stage == "personalize" and str(model.get("gradient_checkpointing")).lower() != "true":
        return "--model.gradient_checkpointing true"
    places = {"batch_size": data, "sampler.identities_per_batch": arguments_of(data.get("sampler"))}
    for name, arguments in places.items():
        size = str(arguments.get(name.rpartition(".")[2]))
        if size.isdecimal():
            return f"--data.{name} {max(1, int(size) // 2)}"
    return "smaller batches"


def _selection(found: Found, settings: Mapping[str, Any], images_per_identity: int) -> list[Suggestion]:
    """Suggest a looser filter."""
    last = last_rule(settings)
    kind, rule = class_name(last), arguments_of(last)
    threshold = _number(rule.get("threshold"), 0.5)
    most = min(round(_FLOOR * images_per_identity), int(_number(rule.get("cap"), images_per_identity)))
    if kind == WITH_FLOOR and (found.kept < _KEPT or found.lost > _LOST) and _number(rule.get("floor"), 0) < most:
        lost = f", and {found.lost:.0%} of the identities lose all of theirs" if found.lost else ""
        why = f"{found.kept:.0%} of the images are kept{lost}; the floor keeps the best {most} of each. {_COST}"
        return [Suggestion("select", f"--rules.floor {most}", why)]
    if kind == "FixedThreshold" and threshold > 0:
        if found.recognized < _RECOGNIZED and rule.get("score", "confidence") == "confidence":
            why = (
                "Few images show the intended person, but those of a label agree: for pre-training the threshold may "
                "be lower. On renders no filter was measurably better than none."
            )
            return [Suggestion("select", "--rules.threshold 0", why)]
        if found.kept < _KEPT:
            why = f"Only {found.kept:.0%} of the images are kept. {_COST}"
            return [Suggestion("select", f"--rules.threshold {threshold / 2:g}", why)]
    if found.kept < _KEPT:
        return [Suggestion("select", "looser --rules", f"Only {found.kept:.0%} of the images are kept. {_COST}")]
    return []


def _recognition(
    found: Found, costs: Sequence[StageCost], settings: Mapping[str, Mapping[str, Any]]
) -> list[Suggestion]:
    """Suggest what makes identities more recognizable."""
    why = f"Only {found.recognized:.0%} show the intended person; on renders pre-training helped where 43 % did. "
    epochs = next((each.epochs for each in costs if each.name == "personalize"), 0)
    made = []
    if epochs:
        advice = f"Longer personalization ({epochs} epochs now) should raise the share; by how much is not measured."
        made.append(Suggestion("personalize", f"--trainer.max_epochs {2 * epochs}", why + advice))
    diversity = arguments_of(settings.get("generate", {}).get("model")).get("diversity")
    if class_name(diversity) not in ("NoDiversity", "SDEdit"):
        flags = "--model.diversity SDEdit --data.references true"
        measured = (
            "On renders SDEdit was recognized in 71 %, NoDiversity in 63 %, ComposedGuidance in 61 % of the images"
        )
        made.append(
            Suggestion("generate", flags, f"{measured}. Or lower --model.diversity.attribute_weight or window.")
        )
    return made


def _number(value: Any, default: float) -> float:
    """Read a number of a rule; ``default``, what the rules take where nothing is written, also for a reference."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return default
