"""W&B's distributions as Optuna's: bounds, logarithms, quantization, shapes."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from scipy import stats

from diffreid_lightning.errors import UserError
from diffreid_lightning.sweeps.distributions import read_parameters

CONTINUOUS: list[tuple[dict[str, Any], Any]] = [
    ({"min": 0.5, "max": 3}, stats.uniform(0.5, 2.5)),
    ({"distribution": "uniform", "min": 1, "max": 3}, stats.uniform(1, 2)),
    ({"distribution": "log_uniform", "min": -4, "max": 1}, stats.loguniform(0.018315639, 2.718281828)),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}, stats.loguniform(1e-4, 0.1)),
    ({"distribution": "inv_log_uniform", "min": -1, "max": 4}, stats.loguniform(0.018315639, 2.718281828)),
    ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 0.1}, stats.loguniform(1e-4, 0.1)),
    ({"distribution": "normal"}, stats.norm()),
    ({"distribution": "normal", "mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e)),
    ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
]


def draws(given: dict[str, Any], count: int = 400) -> list[Any]:
    (parameter,) = read_parameters({"p": given}, grid=False)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask({"p": parameter.distribution}) for _ in range(count)]
    return [parameter.value_of(trial.params["p"]) for trial in trials]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(("given", "expected"), CONTINUOUS)
def test_draws_have_the_distribution(given: dict[str, Any], expected: Any) -> None:
    found = draws(given)
    low, high = expected.support()
    assert low <= min(found) and max(found) <= high * (1 + 1e-9)
    assert stats.kstest(found, expected.cdf).pvalue > 0.01
    assert stats.kstest(found, stats.norm(0.4, 0.4).cdf).pvalue < 0.01, "the test would not see another distribution"


@pytest.mark.parametrize(("given", "expected"), [case for case in CONTINUOUS if "inv" not in str(case[0])])
@pytest.mark.parametrize("q", [2, 0.25])
def test_quantized_draws_are_the_nearest_multiples(given: dict[str, Any], expected: Any, q: float) -> None:
    rounded = draws({**given, "distribution": f"q_{given.get('distribution', 'uniform')}", "q": q}, 50)
    for value, exact in zip(rounded, draws(given, 50), strict=True):
        assert abs(value - exact) <= q / 2 + 1e-9
        assert math.isclose(value / q, round(value / q), abs_tol=1e-6)
        assert isinstance(value, type(q))


def test_q_is_one_unless_given() -> None:
    assert set(draws({"distribution": "q_uniform", "min": 0.6, "max": 3.4})) == {1, 2, 3}


def test_whole_numbers_include_both_ends_and_are_equally_likely() -> None:
    found = draws({"min": 3, "max": 6})
    assert stats.chisquare([found.count(value) for value in (3, 4, 5, 6)]).pvalue > 0.01
    assert len(found) == sum(found.count(value) for value in (3, 4, 5, 6))
    assert {type(value) for value in found} == {int}


def test_choices_of_every_kind_come_back_as_they_are() -> None:
    values = [None, True, 1, 1.0, "1", "null", [1, {"class_path": "A", "init_args": {"x": None}}], {"a": [True]}]
    found = draws({"values": values}, 200)
    assert {repr(value) for value in found} == {repr(value) for value in values}


def test_probabilities_are_respected() -> None:
    found = draws({"values": ["a", "b", None, "c"], "probabilities": [0.1, 0.6, 0.3, 0.0]})
    counts = [found.count(value) for value in ("a", "b", None)]
    assert sum(counts) == 400
    assert stats.chisquare(counts, [40, 240, 120]).pvalue > 0.01


def test_nested_parameters_keep_their_keys_and_constants_are_not_drawn() -> None:
    inner = {"lr": {"min": 0.1, "max": 0.2}, "parameters": {"value": [1]}}
    found = read_parameters({"a": {"parameters": {"b": {"parameters": inner}}}, "c": {"value": None}}, grid=False)
    assert [each.keys for each in found] == [("a", "b", "lr"), ("a", "b", "parameters"), ("c",)]
    assert [each.distribution is None for each in found] == [False, True, True]
    assert [each.value_of(None) for each in found[1:]] == [[1], None]


def test_a_grid_lists_whole_and_quantized_numbers() -> None:
    given = {"a": {"min": 2, "max": 4}, "b": {"distribution": "q_uniform", "min": 0.5, "max": 2, "q": 0.5}}
    whole, quantized = read_parameters(given, grid=True)
    assert [whole.value_of(choice) for choice in whole.distribution.choices] == [2, 3, 4]
    assert [quantized.value_of(choice) for choice in quantized.distribution.choices] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], "has no distribution"),
        ({"foo": 1}, "has no distribution"),
        ({"distribution": "log_unifrom", "min": 1, "max": 2}, "did you mean log_uniform"),
        ({"min": 1}, "has no distribution"),
        ({"distribution": "normal", "mean": 1}, "mu (default 0)"),
        ({"values": []}, "with an entry or more"),
        ({"values": "ab"}, "with an entry or more"),
        ({"min": 2, "max": 2}, "not less than max"),
        ({"min": 0.0, "max": math.inf}, "not a finite number"),
        ({"min": True, "max": 2}, "not a finite number"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "whole numbers"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "above 0"),
        ({"distribution": "log_uniform", "min": 0, "max": 1000}, "exponents of e; log_uniform_values"),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}, "q, a and b must be above 0"),
        ({"distribution": "normal", "sigma": -1}, "sigma at least 0"),
        ({"values": [1, 2], "probabilities": [0.5]}, "not the same length"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "sum to 1"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(given: Any, words: str) -> None:
    with pytest.raises(UserError) as refused:
        read_parameters({"outer": {"parameters": {"p": given}}}, grid=False)
    assert "The parameter outer.p " in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize("given", [{"min": 0.0, "max": 1}, {"distribution": "normal"}, {"min": 0, "max": 10**9}])
def test_a_grid_refuses_what_has_no_list(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="grid"):
        read_parameters({"p": given}, grid=True)
