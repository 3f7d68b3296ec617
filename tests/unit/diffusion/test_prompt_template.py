"""The prompt template: slots come and go without leaving a trace."""

from __future__ import annotations

import itertools
import re

import pytest

from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import UserError

VALUES = {"identity": "<market1501-0002>", "description": "a woman in a red top", "circumstances": "seen from behind"}
TEMPLATES = (
    "a photo of {identity}, {description}, {circumstances}",
    "{identity} {description}, {circumstances}",
    "{circumstances}: {description} ({identity})",
    "a photo of {identity}.",
    "street photo, {description}, in the crowd, {circumstances}.",
    "{identity}{description}",
    "{description}, {description}",
    "no slot at all",
)


@pytest.mark.parametrize("text", TEMPLATES)
def test_whatever_is_empty_no_separator_is_left_alone(text: str) -> None:
    template = PromptTemplate(text)
    for filled in itertools.product((True, False), repeat=3):
        values = {name: value if use else "" for (name, value), use in zip(VALUES.items(), filled, strict=True)}
        prompt = template(**values)
        assert not re.search(r"\s\s|,\s*,|\s,|^[\s,:]|[\s,]$|,\.|\{|\}", prompt), prompt
        for name, value in values.items():
            if value:
                assert prompt.count(value) == text.count(f"{{{name}}}")


def test_the_default_reads_as_a_phrase() -> None:
    template = PromptTemplate()
    assert template(**VALUES) == "a photo of <market1501-0002>, a woman in a red top, seen from behind"
    assert template(identity="<a-1>", circumstances="at night") == "a photo of <a-1>, at night"
    assert template(identity="<a-1>") == "a photo of <a-1>"
    assert template(description="a man in black") == "a photo of a man in black"
    assert template(description=" a man in black, ", circumstances="\n") == "a photo of a man in black"
    assert template() == "a photo of a person"
    assert template(circumstances="at night") == "a photo of a person, at night"


@pytest.mark.parametrize("text", TEMPLATES)
def test_the_template_of_prior_prompts_asks_for_nobody(text: str) -> None:
    template = PromptTemplate(text)
    prior = template.without_identity()
    assert "identity" not in prior.slots
    assert prior.slots == template.slots - {"identity"}
    told = {name: VALUES[name] for name in ("description", "circumstances")}
    assert prior(**told) == template(**told)
    assert prior(identity=VALUES["identity"], **told) == template(**told)


def test_words_with_braces_are_words() -> None:
    assert PromptTemplate()(description="a {identity} shirt") == "a photo of a {identity} shirt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of {identty}", "did you mean {identity}"),
        ("a photo of {circumstance}", "did you mean {circumstances}"),
        ("a photo of {}", "{identity}, {description}, {circumstances}"),
        ("a photo of {identity", "brace"),
        ("a photo of {{identity}}", "brace"),
    ],
)
def test_a_wrong_template_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        PromptTemplate(text)
    assert expected in str(refused.value)


def test_the_template_without_identity_is_made_once() -> None:
    assert PromptTemplate().without_identity() is PromptTemplate().without_identity()
    assert PromptTemplate("{identity} here").without_identity()() == "a person here"


def test_a_template_that_must_name_somebody_has_a_place_for_the_name() -> None:
    assert PromptTemplate().require_identity() is not None
    with pytest.raises(UserError, match="does not name the identity"):
        PromptTemplate("a photo of {description}").require_identity()
