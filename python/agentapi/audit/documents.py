"""What the routes of the audit log answer."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from agentapi.audit.models import Outcome
from agentapi.operation import Id, Time

__all__ = ["AuditPage", "AuditRowDocument"]


class AuditRowDocument(TypedDict):
    """A row of the audit log, with all that its hash is made of."""

    id: str
    org_id: Id
    time: Time
    actor_id: Id | None
    action: str
    outcome: Outcome
    resource: str
    address: str
    agent: str
    request_id: str
    details: dict[str, Any]
    writer_id: Id
    sequence: int
    previous: str
    hash: str


class AuditPage(TypedDict):
    """One page of rows, the newest first."""

    items: list[AuditRowDocument]
    next_cursor: str | None
