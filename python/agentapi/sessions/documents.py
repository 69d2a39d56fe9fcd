"""What the routes of sessions answer."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from agentapi.operation import Id, Slug, Time
from agentapi.principal import Role
from agentapi.sessions.models import EndReason

__all__ = ["SessionDocument", "SessionPage", "StartedDocument", "TokenDocument"]


class SessionDocument(TypedDict):
    """A session, without a token of it."""

    id: Id
    name: str
    workspace: Slug
    status: Literal["live", "ended"]
    end_reason: EndReason | None
    user_id: Id
    role: Role
    scopes: list[str]
    created_at: Time
    last_used_at: Time
    idle_timeout_s: int
    expires_at: Time
    ended_at: Time | None


class TokenDocument(TypedDict):
    """A token of a session, which is shown this once, and the only address where it is good."""

    mcp_url: str
    token: str
    token_expires_at: Time


class StartedDocument(SessionDocument, TokenDocument):
    """A new session with all that an agent needs to begin."""

    system_prompt: str


class SessionPage(TypedDict):
    """One page of sessions."""

    items: list[SessionDocument]
    next_cursor: str | None
