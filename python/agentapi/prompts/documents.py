"""What the routes of prompts answer."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import TypedDict

from agentapi.operation import DumpOf, Id, Slug, Time
from agentapi.prompts.detector import Suspicion
from agentapi.prompts.models import Scope
from agentapi.prompts.requests import VariableInput

__all__ = [
    "CompositionDocument",
    "ContentDocument",
    "FindingDocument",
    "PromptDocument",
    "PromptPage",
    "PromptPartDocument",
    "PromptVersionDocument",
    "PromptVersionPage",
    "ValueDocument",
]


class FindingDocument(TypedDict):
    """A place in a text, in characters, that reads like an attempt to take over the model."""

    suspicion: Suspicion
    start: int
    end: int


class ContentDocument(TypedDict):
    """What a version of a prompt holds."""

    text: str
    variables: list[Annotated[dict[str, Any], DumpOf(VariableInput)]]
    priority: int
    description: str
    enabled: bool
    findings: list[FindingDocument]


class PromptDocument(ContentDocument):
    """A prompt as it is now."""

    id: Id
    scope: Scope
    workspace: Slug | None
    name: Slug
    version: int
    created_by: Id
    created_at: Time
    updated_by: Id
    updated_at: Time


class PromptPage(TypedDict):
    """One page of prompts."""

    items: list[PromptDocument]
    next_cursor: str | None


class PromptVersionDocument(ContentDocument):
    """A prompt as it once was."""

    version: int
    updated_by: Id
    updated_at: Time


class PromptVersionPage(TypedDict):
    """One page of versions, the newest first."""

    items: list[PromptVersionDocument]
    next_cursor: str | None


class ValueDocument(TypedDict):
    """Where the value of a variable stands in the text, in characters."""

    name: str
    start: int
    end: int


class PromptPartDocument(TypedDict):
    """Which part of the text came from which prompt."""

    id: Id
    scope: Scope
    name: Slug
    version: int
    priority: int
    start: int
    end: int
    values: list[ValueDocument]
    findings: list[FindingDocument]


class CompositionDocument(TypedDict):
    """One text of all prompts that hold; ``boundary`` is what tells its parts apart, where there are any."""

    text: str
    boundary: str | None
    parts: list[PromptPartDocument]
