"""Prompts, their variables, and where each of them holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType
from uuid import UUID

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.principal import OrgId, UserId, WorkspaceId

__all__ = [
    "MAX_VALUE",
    "Content",
    "Kind",
    "Prompt",
    "PromptId",
    "PromptVersion",
    "Scope",
    "Value",
    "Variable",
]

PromptId = NewType("PromptId", UUID)

Value = str | int | float | bool
"""What a variable may stand for."""

MAX_VALUE: Final = 8192
"""Characters of one value."""


class Scope(StrEnum):
    """For whom a prompt holds, from most to least trusted: that is the order in which prompts are composed."""

    GLOBAL = "global"
    ORGANIZATION = "organization"
    WORKSPACE = "workspace"
    USER = "user"

    @property
    def rank(self) -> int:
        """Place in that order, from 0."""
        return _ORDER[self]


_ORDER: Final = {scope: rank for rank, scope in enumerate(Scope)}


class Kind(StrEnum):
    """The type of a variable."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Variable:
    """What a text may hold as ``{{ name }}``.

    A string is one line unless it says otherwise, so that whoever gives it cannot lay out a prompt of their own.
    """

    name: str
    kind: Kind = Kind.STRING
    description: str = ""
    default: Value | None = None
    """What stands for it where nobody gives a value; without one a value has to be given."""
    choices: tuple[str, ...] = ()
    max_length: int = 500
    multiline: bool = False

    def read(self, value: object) -> str:
        """Return ``value`` as it will stand in the text.

        Raises:
            ValueError: It is not of the declared type; the message says what is, and does not repeat the value.
        """
        if self.kind is Kind.BOOLEAN:
            if isinstance(value, bool):
                return "true" if value else "false"
            raise ValueError("It is true or false.")
        if self.kind is Kind.INTEGER:
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
                return str(value)
            raise ValueError("It is a whole number of 64 bits.")
        if self.kind is Kind.NUMBER:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value)):
                return repr(value)
            raise ValueError("It is a number.")
        return self._read_text(value)

    def _read_text(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("It is text.")  # noqa: TRY004 - one kind of error for every kind of value
        if self.choices and value not in self.choices:
            raise ValueError("It is one of the declared choices.")
        if len(value) > self.max_length:
            raise ValueError(f"It is at most {self.max_length} characters long.")
        if "\0" in value or (not self.multiline and value.splitlines() not in ([], [value])):
            raise ValueError("It is one line.")
        return value


@dataclass(frozen=True, slots=True)
class Content:
    """What a version of a prompt holds."""

    text: str
    variables: tuple[Variable, ...] = ()
    priority: int = 0
    description: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as it is now."""

    id: PromptId
    org_id: OrgId | None
    """None for a global prompt."""
    scope: Scope
    workspace_id: WorkspaceId | None
    owner_id: UserId | None
    name: str
    content: Content
    version: int
    created_by: UserId
    created_at: datetime
    updated_by: UserId
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """One version of a prompt, as it was put."""

    version: int
    content: Content
    updated_by: UserId
    updated_at: datetime
