"""Who is told what happened to connections: the audit log, the counters, and never with a token or a code."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.observability.metrics import OAUTH_EVENTS

if TYPE_CHECKING:
    from agentapi.audit.log import AuditLog
    from agentapi.oauth.models import Connection, Flow, ProviderName
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.storage.database import Connection as Transaction

__all__ = ["Event", "Journal"]


class Event(StrEnum):
    """What can happen."""

    INITIATED = "initiated"
    CONNECTED = "connected"
    REFRESHED = "refreshed"
    REFRESH_FAILED = "refresh_failed"
    REVOKED = "revoked"
    REVOCATION_FAILED = "revocation_failed"
    DENIED = "denied"
    REPLAYED = "replayed"


_OUTCOMES = {
    Event.REFRESH_FAILED: Outcome.FAILURE,
    Event.REVOCATION_FAILED: Outcome.FAILURE,
    Event.DENIED: Outcome.DENIED,
    Event.REPLAYED: Outcome.DENIED,
}


class Journal:
    """Writes down what happens.

    Args:
        audit: The audit log.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def record(
        self, transaction: Transaction, event: Event, about: Connection | Flow, *, reason: str | None = None
    ) -> None:
        """Write down a change, in the transaction that makes it and as the last of it."""
        _count(event, about.provider)
        await self._audit.record(
            transaction, Actor(about.org_id, about.user_id), _entry(event, about.upstream_id, about.provider, reason)
        )

    def note(self, event: Event, about: Connection | Flow, *, reason: str | None = None) -> None:
        """Write down what changed nothing here, soon."""
        _count(event, about.provider)
        self._audit.note(Actor(about.org_id, about.user_id), _entry(event, about.upstream_id, about.provider, reason))

    def replayed(self, org_id: OrgId, user_id: UserId) -> None:
        """Write down an answer to a flow of that user's which is over, or was begun in another browser."""
        # Which flow it was cannot be told: the row is gone, or is not this browser's to know of.
        OAUTH_EVENTS.labels(Event.REPLAYED, "unknown").inc()
        self._audit.note(Actor(org_id, user_id), Entry(f"oauth.{Event.REPLAYED}", Outcome.DENIED))


def _count(event: Event, provider: ProviderName) -> None:
    OAUTH_EVENTS.labels(event, provider).inc()


def _entry(event: Event, upstream_id: UpstreamId, provider: ProviderName, reason: str | None) -> Entry:
    details: dict[str, str | int | bool | None] = {"provider": provider.value}
    if reason is not None:
        details["reason"] = reason
    return Entry(f"oauth.{event}", _OUTCOMES.get(event, Outcome.SUCCESS), f"upstream:{upstream_id}", details)
