"""Settle settings that follow another one, and settings that the commands fix themselves.

The data module's ``image_size`` is the model's too, and ``seed_everything`` is the data's seed unless ``data.seed`` is
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffreid_lightning.cli.config_classes import read_word
from diffreid_lightning.cli.lightning_parser import has_setting
from diffreid_lightning.cli.references import find_value
from diffreid_lightning.errors import UserError

SEED, DATA_SEED = "seed_everything", "data.init_args.seed"
DATA_SIZE, MODEL_SIZE = "data.init_args.image_size", "model.init_args.image_size"
#: source of each setting that follows another one unless it is given
LINKS = {DATA_SEED: SEED, MODEL_SIZE: DATA_SIZE}
#: what each command decides itself: the values that say the same, why, and what to do for another
_DECIDED: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "weights_only": (
        (None, True),
        "checkpoints are loaded as plain tensors alone",
        "leave it out; another project's backbone is read by 'convert'",
    ),
    "return_predictions": (
        (None, False),
        "the callbacks in trainer.callbacks write the predictions, and none is kept in memory",
        "leave it out",
    ),
    "verbose": (
        (None, True),
        "the callback ResultsTable prints the results",
        "leave it out, and ResultsTable out of trainer.callbacks",
    ),
}
DECIDED = frozenset(_DECIDED)


def data_seed(value: bool | int | None) -> int:
    """Return the data's seed that follows from ``seed_everything``: 0 where that is no number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def is_written(settings: Mapping[str, Any], path: str) -> bool:
    """Tell whether a class's argument (``data.init_args.seed``) stands in a configuration."""
    section, _, name = path.partition(".init_args.")
    return any(name in arguments for arguments in _arguments(settings.get(section)))


def settle(settings: Mapping[str, Any], subcommand: str) -> dict[str, Any]:
    """Leave out what says again what is so anyway, and refuse what would be overruled.

    Args:
        settings: the configuration, flags applied and references resolved.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.

    Returns:
        The configuration without ``weights_only``, ``return_predictions`` and ``verbose``, and without an
        ``image_size`` of the model that is the data's.

    Raises:
        UserError: one of these has another value.
    """
    settled = dict(settings)
    for name, (same, reason, remedy) in _DECIDED.items():
        if name not in settled or not has_setting(subcommand, name):
            continue
        given = settled.pop(name)
        if (read_word(given) if isinstance(given, str) else given) not in same:
            raise UserError(f"{name} cannot be {given}.", found=reason, remedy=remedy)
    return _with_one_image_size(settled)


def _with_one_image_size(settings: dict[str, Any]) -> dict[str, Any]:
    of_data = find_value(settings, DATA_SIZE)
    if of_data is None or not is_written(settings, MODEL_SIZE):
        return settings
    model = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings["model"].items()}
    for arguments in _arguments(model):
        given = _numbers(arguments.get("image_size", of_data[0]))
        if not isinstance(given, list):
            continue  # the parser says what it takes
        arguments.pop("image_size", None)
        if given != _numbers(of_data[0]):
            raise UserError(
                "The model's image size is the data's, and cannot be another one.",
                found=f"model.image_size {given}, data.image_size {of_data[0]}",
                remedy=f"leave out model.image_size and give --data.image_size '{given}'",
            )
    return {**settings, "model": model}


def _arguments(node: Any) -> list[dict[str, Any]]:
    """Return the mappings in which a section may hold arguments of its class."""
    if not isinstance(node, Mapping):
        return []
    return [node[key] for key in ("init_args", "dict_kwargs") if isinstance(node.get(key), dict)]


def _numbers(value: Any) -> Any:
    read = read_word(value) if isinstance(value, str) else value
    return list(read) if isinstance(read, (list, tuple)) else read
