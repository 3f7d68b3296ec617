"""Say what to change in a chain, by the shares and costs of its rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffreid_lightning.pipeline.rehearsal import arguments_of
from diffreid_lightning.pipeline.rehearsal_costs import StageCost

_MOST = 3
# Of all images of "Two images of each person" in docs/results/pretraining.md, with which pre-training was worth it.
_RECOGNIZED, _CONSISTENT = 0.426, 0.767
# "Which images to pre-train on" in docs/results/pretraining.md: keeping 42 % was worse than keeping 60 %.
_KEPT = 0.42
_LOST = 0.1  # not measured
_NEARLY_FULL = 0.9  # of a GPU's memory; not measured
_THRESHOLDS = ("FixedThreshold", "ThresholdWithFloorAndCap")


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


def suggest(found: Found, costs: Sequence[StageCost], settings: Mapping[str, Mapping[str, Any]]) -> list[Suggestion]:
    """Suggest at most three changes, the most pressing first.

    Args:
        found: the shares.
        costs: of the stages.
        settings: settings of each stage as the chain has them, by name.
    """
    agrees = found.consistent is not None and found.consistent >= _CONSISTENT
    made = [
        *_memory(costs, settings),
        *(_selection(found, settings.get("select", {})) if agrees or found.recognized >= _RECOGNIZED else []),
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


def _selection(found: Found, settings: Mapping[str, Any]) -> list[Suggestion]:
    """Suggest a looser filter."""
    rules = settings.get("rules") or [None]
    last = rules[-1] if isinstance(rules, list) else rules
    kind = _class_name(last)
    threshold = _threshold(arguments_of(last).get("threshold"))
    by_confidence = arguments_of(last).get("score", "confidence") == "confidence"
    made = []
    if found.kept < _KEPT and kind not in _THRESHOLDS:
        made.append(Suggestion("select", "looser --rules", f"Only {found.kept:.0%} of the images are kept."))
    elif found.kept < _KEPT and threshold > 0:
        why = f"Only {found.kept:.0%} are kept. On renders, 42 % in place of 60 % cost 2.4 mAP (one seed)."
        made.append(Suggestion("select", f"--rules.threshold {threshold / 2:g}", why))
    if found.recognized < _RECOGNIZED and kind in _THRESHOLDS and threshold > 0 and by_confidence:
        why = (
            "Few images show the intended person, but those of a label agree: for pre-training the threshold may be "
            "lower. On renders no filter differed measurably from none."
        )
        made[:] = [Suggestion("select", "--rules.threshold 0", why)]
    if found.lost > _LOST and kind == "ThresholdWithFloorAndCap":
        why = f"{found.lost:.0%} of the identities lose all their images; a floor keeps the best two of each."
        made.append(Suggestion("select", "--rules.floor 2", why))
    return made


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
    if _class_name(diversity) not in ("NoDiversity", "SDEdit"):
        flags = "--model.diversity SDEdit --data.references true"
        measured = (
            "On renders SDEdit was recognized in 71 %, NoDiversity in 63 %, ComposedGuidance in 61 % of the images"
        )
        made.append(
            Suggestion("generate", flags, f"{measured}. Or lower --model.diversity.attribute_weight or window.")
        )
    return made


def _threshold(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.5  # what the rules take where nothing is written


def _class_name(section: Any) -> str:
    """Return the short name of a class in a configuration, which may stand alone."""
    return str(section.get("class_path") if isinstance(section, Mapping) else section).rpartition(".")[2]
