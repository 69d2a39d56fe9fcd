from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.errors import InvalidRequestError
from agentapi.prompts.models import Kind, Value, Variable
from agentapi.prompts.template import names_in, render


@given(st.text().filter(lambda text: not names_in(text)))
def test_a_text_without_variables_comes_out_as_it_went_in(text: str) -> None:
    assert render(text, {}).text == text


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_value_is_not_looked_into(before: str, value: str) -> None:
    if names_in(before):
        return
    rendered = render(before + " {{ a }}{{a}} {{ a", {"a": value + "{{ b }}"})
    assert rendered.text == f"{before} {value}{{{{ b }}}}{value}{{{{ b }}}} {{{{ a"
    assert [rendered.text[span.start : span.end] for span in rendered.values] == [value + "{{ b }}"] * 2


@pytest.mark.parametrize(
    "text", ["{{ 7*7 }}", "{% for i in range(9) %}", "{{ a.b }}", "{{a|upper}}", "{ a }", "{{\na}}"]
)
def test_nothing_but_a_name_is_a_variable(text: str) -> None:
    assert names_in(text) == frozenset()
    assert render(text, {"a": "x"}).text == text


def test_a_text_does_not_grow_without_bound() -> None:
    with pytest.raises(InvalidRequestError, match="longer than"):
        render("{{a}}" * 5000, {"a": "x" * 8000})


def test_a_variable_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="variable a has no value"):
        render("{{a}}", {})


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (Variable("a", Kind.BOOLEAN), True, "true"),
        (Variable("a", Kind.INTEGER), -3, "-3"),
        (Variable("a", Kind.NUMBER), 0.5, "0.5"),
        (Variable("a", choices=("x", "y")), "y", "y"),
        (Variable("a", multiline=True), "x\ny", "x\ny"),
        (Variable("a"), "", ""),
    ],
)
def test_a_value_of_its_type_is_read(variable: Variable, value: Value, text: str) -> None:
    assert variable.read(value) == text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (Variable("a", Kind.BOOLEAN), 1),
        (Variable("a", Kind.INTEGER), True),
        (Variable("a", Kind.INTEGER), 10**30),
        (Variable("a", Kind.NUMBER), float("nan")),
        (Variable("a", Kind.NUMBER), "1"),
        (Variable("a", choices=("x", "y")), "z"),
        (Variable("a", max_length=2), "xyz"),
        (Variable("a"), "x\n"),
        (Variable("a", multiline=True), "x\0"),
    ],
)
def test_a_value_of_another_type_is_refused(variable: Variable, value: Value) -> None:
    with pytest.raises(ValueError, match="It is"):
        variable.read(value)
