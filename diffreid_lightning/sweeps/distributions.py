"""Translate the distributions of W&B's sweep files into Optuna's.

Optuna draws a number or a choice, and :class:`Parameter` turns it into the value. Numbers are rounded to multiples of
``q`` after the draw, as W&B does. A distribution that Optuna lacks (normal, log-normal, beta, given probabilities) is
drawn as its quantile, uniform between 0 and 1.

Distributions: https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from diffreid_lightning.errors import UserError, nearest, shorten

_EDGE = 1e-6  # smallest quantile: at 0 and 1 a normal distribution is infinite
_MOST_IN_GRID = 100_000
_RANGE: tuple[set[str], dict[str, float]] = ({"min", "max"}, {})
_BELL: tuple[set[str], dict[str, float]] = (set(), {"mu": 0.0, "sigma": 1.0})
#: required keys of each distribution, and the defaults of the others
_KEYS: dict[str, tuple[set[str], dict[str, float]]] = {
    "constant": ({"value"}, {}),
    "categorical": ({"values"}, {}),
    "categorical_w_probabilities": ({"values", "probabilities"}, {}),
    "int_uniform": _RANGE,
    "uniform": _RANGE,
    "log_uniform": _RANGE,
    "log_uniform_values": _RANGE,
    "inv_log_uniform": _RANGE,
    "inv_log_uniform_values": _RANGE,
    "normal": _BELL,
    "log_normal": _BELL,
    "beta": (set(), {"a": 1.0, "b": 1.0}),
}
for _name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta"):
    _KEYS[f"q_{_name}"] = (_KEYS[_name][0], {**_KEYS[_name][1], "q": 1})


@dataclass(frozen=True)
class Parameter:
    """A parameter of a sweep.

    Args:
        keys: from the top of ``parameters``; more than one where these are nested.
        distribution: Optuna's distribution of the draw; None for a constant.
        value_of: turns a draw into the value.
    """

    keys: tuple[str, ...]
    distribution: Any
    value_of: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """Return the keys with dots between them."""
        return ".".join(self.keys)


def read_parameters(section: Mapping[str, Any], *, grid: bool, above: tuple[str, ...] = ()) -> list[Parameter]:
    """Translate the section ``parameters`` of a sweep file; nested ones are listed with all their keys,
    in the alphabetical order that W&B's agent gives them in.

    Args:
        section: the section.
        grid: all combinations will be tried, so each parameter needs a list of values.
        above: keys of the section.

    Raises:
        UserError: a distribution is unknown or lacks a key, or a number is out of its range.
    """
    found: list[Parameter] = []
    for key, given in sorted(section.items(), key=lambda item: str(item[0])):
        keys = (*above, str(key))
        if isinstance(given, Mapping) and set(given) == {"parameters"} and isinstance(given["parameters"], Mapping):
            found += read_parameters(given["parameters"], grid=grid, above=keys)
            continue
        kind, settings = _complete(".".join(keys), given)
        problem = _find_problem(kind, settings)
        if problem is None and grid:
            kind, settings, problem = _list_values(kind, settings)
        if problem is not None:
            raise UserError(f"The parameter {'.'.join(keys)} cannot be drawn: {problem}.", found=str(given))
        found.append(Parameter(keys, *_translate(kind, settings)))
    return found


def _complete(name: str, given: Any) -> tuple[str, dict[str, Any]]:
    """Return a parameter's distribution, which may follow from its keys, and its settings with the defaults."""
    keys = set(given if isinstance(given, Mapping) else ()) - {"distribution"}
    implied = {"probabilities": "categorical_w_probabilities", "values": "categorical", "value": "constant"}
    if {"min", "max"} <= keys:
        implied["min"] = "int_uniform" if isinstance(given["min"], int) and isinstance(given["max"], int) else "uniform"
    kind = next((implied[key] for key in implied if key in keys), "")
    if isinstance(given, Mapping):
        kind = str(given.get("distribution", kind))
    required, defaults = _KEYS.get(kind, (None, {}))
    if required is None:
        guess = nearest(kind, _KEYS)
        raise UserError(
            f"The parameter {name} has no distribution of W&B.",
            looked_for=f"value, values, min and max, parameters, or distribution: {shorten(_KEYS, len(_KEYS))}",
            found=str(given),
            remedy=f"did you mean {guess}?" if guess else None,
        )
    if not required <= keys or not keys <= required | set(defaults):
        optional = [f"{key} (default {value:g})" for key, value in defaults.items()]
        raise UserError(
            f"The parameter {name} does not fit the distribution {kind}.",
            looked_for=f"the keys {', '.join([*sorted(required), *optional])}",
            found=str(given),
        )
    return kind, {**defaults, **{key: value for key, value in given.items() if key != "distribution"}}


def _find_problem(kind: str, given: Mapping[str, Any]) -> str | None:
    """Describe why nothing can be drawn with these settings; None if it can."""
    for key in ("values", "probabilities"):
        if key in given and (not isinstance(given[key], list) or not given[key]):
            return f"{key} must be a list with an entry or more"
    shares = given.get("probabilities", [1.0])
    numbers = {key: value for key, value in given.items() if key not in ("value", "values", "probabilities")}
    for value in [*numbers.values(), *shares]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{value!r} is not a finite number"
    if kind == "int_uniform" and not all(isinstance(value, int) and abs(value) < 2**53 for value in numbers.values()):
        return "min and max must be whole numbers below 2^53"
    if "min" in given and given["min"] >= given["max"]:
        return f"min {given['min']} is not less than max {given['max']}"
    if kind.endswith("log_uniform_values") and given["min"] <= 0:
        return "min must be above 0 on a logarithmic scale"
    if "log_uniform" in kind and not kind.endswith("_values") and max(abs(given["min"]), abs(given["max"])) > 700:
        return f"min and max are exponents of e; {kind}_values takes the values themselves"
    if min(given.get(key, 1) for key in ("q", "a", "b")) <= 0 or given.get("sigma", 0) < 0:
        return "q, a and b must be above 0, sigma at least 0"
    if "probabilities" in given and len(shares) != len(given["values"]):
        return "values and probabilities are not the same length"
    if min(shares) < 0 or not math.isclose(sum(shares), 1, rel_tol=1e-5):
        return "probabilities do not sum to 1"
    return None


def _list_values(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any], str | None]:
    """Return a parameter of a grid as a list of values, as W&B makes it, and a problem if it has none."""
    if kind in ("constant", "categorical"):
        return kind, given, None
    if kind not in ("int_uniform", "q_uniform"):
        return kind, given, "a grid takes constant, categorical, int_uniform and q_uniform; use method: random"
    low, step = given["min"], given.get("q", 1)
    count = math.ceil((given["max"] + (kind == "int_uniform") - low) / step)
    problem = None if count <= _MOST_IN_GRID else f"{count:,} values in a grid are more than {_MOST_IN_GRID:,}"
    return "categorical", {"values": [low + step * number for number in range(count)] if not problem else []}, problem


def _translate(kind: str, given: Mapping[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """Return Optuna's distribution, and the function that turns its draw into the value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if kind == "constant":
        return None, lambda _: given["value"]
    if kind == "categorical":
        # As text: Optuna stores plain values alone, and takes 1, 1.0 and true for one choice.
        return CategoricalDistribution([json.dumps(value, default=str) for value in given["values"]]), json.loads
    if kind == "int_uniform":
        return IntDistribution(given["min"], given["max"]), int
    shape, q = kind.removeprefix("q_"), given.get("q")
    if "min" not in given:
        quantile = _quantile_function(shape, given)
        return FloatDistribution(_EDGE, 1 - _EDGE), lambda draw: _round(quantile(draw), q)
    low, high = given["min"], given["max"]
    if "log" in shape and not shape.endswith("_values"):  # exponents of e
        low, high = (math.exp(-high), math.exp(-low)) if shape.startswith("inv") else (math.exp(low), math.exp(high))
    return FloatDistribution(low, high, log="log" in shape), lambda draw: _round(draw, q)


def _quantile_function(shape: str, given: Mapping[str, Any]) -> Callable[[float], Any]:
    from scipy.special import betaincinv, ndtri

    if shape == "beta":
        return lambda share: float(betaincinv(given["a"], given["b"], share))
    if shape == "normal":
        return lambda share: given["mu"] + given["sigma"] * float(ndtri(share))
    if shape == "log_normal":
        return lambda share: math.exp(given["mu"] + given["sigma"] * float(ndtri(share)))
    ends, values = list(accumulate(given["probabilities"])), given["values"]
    return lambda share: values[min(bisect_left(ends, share), len(values) - 1)]


def _round(value: Any, q: float | None) -> Any:
    """Round to a multiple of ``q``, a whole number where ``q`` is one; without ``q`` the value stays as it is."""
    if q is None:
        return value
    return round(value / q) * q if isinstance(q, int) else round(round(value / q) * q, 12)
