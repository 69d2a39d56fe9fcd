"""Refresh ahead of expiry: with each grant that is stored, in the same transaction, a job is queued for its end.

The job names one generation of the grant. If another has taken its place, that one has a job of its own, and this one
ends. A job that is lost costs nothing but time: the next call refreshes on demand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.jobs.queue import Again
from agentapi.oauth import store
from agentapi.oauth.errors import AuthorizationServerError, AuthorizationServerRestsError, ReconnectNeededError
from agentapi.oauth.refresh import due_at
from agentapi.principal import OrgId, UpstreamId, UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from agentapi.jobs.queue import JobQueue
    from agentapi.oauth.models import Connection
    from agentapi.oauth.refresh import Refresher
    from agentapi.storage.database import Connection as Transaction
    from agentapi.storage.database import Database

__all__ = ["RefreshAhead", "RefreshPlan"]

_JOB: Final = "oauth.refresh"
_STOP_AFTER: Final = timedelta(hours=1)
"""How long after its end a grant is tried to be renewed in the background; from then on a call has to ask for it."""


class RefreshPlan:
    """Queues the refreshes to come.

    Args:
        jobs: The queue.
        clock: The time, with its zone.
        ahead_s: How long before its end a token is refreshed.
    """

    def __init__(self, jobs: JobQueue, *, clock: Callable[[], datetime], ahead_s: float) -> None:
        self._jobs = jobs
        self._clock = clock
        self._ahead = timedelta(seconds=ahead_s)

    async def plan(self, transaction: Transaction, connection: Connection) -> None:
        """Queue the refresh of a grant that ``transaction`` stores."""
        due = due_at(connection, self._ahead)
        if due is None:
            return
        payload = {
            "org": str(connection.org_id),
            "user": str(connection.user_id),
            "upstream": str(connection.upstream_id),
            "generation": connection.generation,
        }
        await self._jobs.put(transaction, _JOB, payload, after=due - self._clock())


class RefreshAhead:
    """Does the queued refreshes.

    Args:
        database: Where connections are.
        refresher: Refreshes them.
        clock: The time, with its zone.
    """

    def __init__(self, *, database: Database, refresher: Refresher, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._refresher = refresher
        self._clock = clock

    def attach(self, jobs: JobQueue) -> None:
        """Take the refreshes of this queue."""
        jobs.handle(_JOB, self._do)

    async def _do(self, payload: Mapping[str, Any]) -> Again | None:
        held = await self._held(payload)
        if held is None:
            return None
        try:
            wait = await self._refresher.refresh_if_due(held)
        except (ReconnectNeededError, UpstreamNeedsConnectionError):
            return None
        except AuthorizationServerError as error:
            held = await self._held(payload)
            if held is None or held.expires_at is None or self._clock() > held.expires_at + _STOP_AFTER:
                return None
            wait = (held.refresh_not_before or self._clock()) - self._clock()
            if isinstance(error, AuthorizationServerRestsError):
                wait = max(wait, timedelta(seconds=error.retry_after_s))
        return None if wait is None else Again(wait)

    async def _held(self, payload: Mapping[str, Any]) -> Connection | None:
        """Return the connection that a job is about, if it still has the grant that the job was queued for."""
        org_id, user_id = OrgId(UUID(payload["org"])), UserId(UUID(payload["user"]))
        async with self._database.user_transaction(org_id, user_id) as transaction:
            held = await store.find_connection(transaction, user_id, UpstreamId(UUID(payload["upstream"])))
        return held if held is not None and held.generation == payload["generation"] else None
