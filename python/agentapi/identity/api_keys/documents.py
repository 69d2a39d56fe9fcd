"""What the routes of API keys answer."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from agentapi.operation import Id, Slug, Time
from agentapi.principal import Role

__all__ = ["KeyDocument", "KeyPage", "NewKeyDocument"]


class KeyDocument(TypedDict):
    """An API key, without its text; ``version`` does not count when it was last used."""

    id: Id
    name: str
    begins_with: str
    acts_as: Literal["agent", "user"]
    role: Role
    scopes: list[str]
    workspace: Slug | None
    created_by: Id
    created_at: Time
    rotated_at: Time | None
    previous_until: Time | None
    expires_at: Time | None
    last_used_at: Time | None
    revoked_at: Time | None
    version: int


class NewKeyDocument(KeyDocument):
    """An API key with its text, which is shown this once."""

    key: str


class KeyPage(TypedDict):
    """One page of API keys."""

    items: list[KeyDocument]
    next_cursor: str | None
