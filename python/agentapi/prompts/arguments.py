"""A prompt as a client of MCP sees it: variables are arguments, and arguments are texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentapi.prompts.models import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.prompts.models import Content, Value, Variable

__all__ = ["arguments_of", "completions", "values_of"]

_BOOLEANS: Final = {"true": True, "false": False}
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE][+-]?[0-9]{1,3})?")
_HINTS: Final = {
    Kind.STRING: "",
    Kind.INTEGER: "A whole number.",
    Kind.NUMBER: "A number.",
    Kind.BOOLEAN: "true or false.",
}
_MAX_NAMED: Final = 20
"""Choices that a description names; all of them come by completion."""


def arguments_of(content: Content) -> list[dict[str, Any]]:
    """Return the arguments of a prompt, in the order in which its variables are declared."""
    return [
        {
            "name": variable.name,
            "description": " ".join(filter(None, (variable.description, _hint(variable)))),
            "required": variable.default is None,
        }
        for variable in content.variables
    ]


def values_of(content: Content, arguments: Mapping[str, str]) -> dict[str, Value]:
    """Return ``arguments`` as values of the declared types; one that is of another type, or unknown, stays text."""
    kinds = {variable.name: variable.kind for variable in content.variables}
    return {name: _value(kinds.get(name, Kind.STRING), text) for name, text in arguments.items()}


def completions(variable: Variable, typed: str) -> list[str]:
    """Return the values of ``variable`` that begin with what was typed; none where any value will do."""
    offered = tuple(_BOOLEANS) if variable.kind is Kind.BOOLEAN else variable.choices
    return [value for value in offered if value.casefold().startswith(typed.casefold())]


def _value(kind: Kind, text: str) -> Value:
    if kind is Kind.BOOLEAN:
        return _BOOLEANS.get(text, text)
    if kind is Kind.INTEGER and _INTEGER.fullmatch(text):
        return int(text)
    if kind is Kind.NUMBER and _NUMBER.fullmatch(text):
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    return text


def _hint(variable: Variable) -> str:
    if not variable.choices:
        return _HINTS[variable.kind]
    more = ", ..." if len(variable.choices) > _MAX_NAMED else ""
    return f"One of: {', '.join(variable.choices[:_MAX_NAMED])}{more}."
