"""What a user does with what he brings: give it, look how it stands, take it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import structlog

from agentapi._core import SealError
from agentapi.api_input import INVALID_BODY
from agentapi.audit.models import Actor, Outcome
from agentapi.errors import InvalidRequestError, NotFoundError
from agentapi.oauth.brought import store
from agentapi.oauth.brought.attempts import Attempts
from agentapi.oauth.brought.credentials import credential_of
from agentapi.oauth.brought.models import Brought, BroughtId, Standing, Stored, destination_of, entry
from agentapi.oauth.errors import BroughtRefusedError
from agentapi.upstreams.form_values import value_complaints
from agentapi.upstreams.models import Auth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from pydantic import SecretStr

    from agentapi.audit.log import AuditLog
    from agentapi.oauth.brought.vault import BroughtVault
    from agentapi.oauth.changes import Changes
    from agentapi.principal import OrgId, UserId
    from agentapi.storage.database import Database
    from agentapi.upstreams.credentials import Credential
    from agentapi.upstreams.forms import CredentialForm
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.probe import ProbeResult

__all__ = ["BroughtBook", "Report", "form_of"]

_log = structlog.get_logger(__name__)
_NOTHING: Final = "You have brought nothing for this upstream."


@dataclass(frozen=True, slots=True)
class Report:
    """How a user's values for an upstream stand; the values themselves are in no report."""

    standing: Standing
    fields: tuple[str, ...] = ()
    """Those that have a value."""
    created_at: datetime | None = None
    updated_at: datetime | None = None


def form_of(upstream: Upstream) -> CredentialForm:
    """Return what ``upstream`` asks each user for.

    Raises:
        NotFoundError: It asks for nothing.
    """
    if upstream.auth is not Auth.USER or upstream.credential_form is None:
        raise NotFoundError(f"Upstream '{upstream.name}' asks its users for no credential.")
    return upstream.credential_form


class BroughtBook:
    """Stores, reports and removes what users bring.

    Args:
        database: Where it is.
        vault: Seals it.
        changes: Told of what was given and taken back.
        check: Connects to an upstream with a credential and says what came of it.
        audit: Told of what was stored, refused and removed.
        clock: The time, with its zone.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: BroughtVault,
        changes: Changes,
        check: Callable[[Upstream, Credential], Awaitable[ProbeResult]],
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._vault = vault
        self._changes = changes
        self._check = check
        self._audit = audit
        self._clock = clock
        self._attempts = Attempts()

    async def put(self, caller: Caller, upstream: Upstream, values: Mapping[str, SecretStr]) -> Report:
        """Try values at the upstream, and store them if it takes them.

        Raises:
            NotFoundError: The upstream asks for nothing, or is gone.
            InvalidRequestError: The form does not allow these values.
            RateLimitedError: There were too many attempts.
            BroughtRefusedError: The upstream does not take them; nothing was stored.
        """
        complaints = tuple(value_complaints(form_of(upstream), values))
        if complaints:
            raise InvalidRequestError(INVALID_BODY, complaints)
        id_, actor = BroughtId(uuid4()), Actor(caller.org_id, caller.user_id)
        with self._attempts.one(caller, upstream):
            result = await self._check(upstream, credential_of(upstream, values, id_=id_, user_id=caller.user_id))
        if not result.ok:
            self._audit.note(actor, entry("refused", upstream.id, Outcome.DENIED))
            raise BroughtRefusedError(upstream.name, result.reason or "It did not say why.")
        now = self._clock()
        sealed = self._vault.seal(
            Brought(values, destination_of(upstream)),
            id_=id_,
            org_id=caller.org_id,
            user_id=caller.user_id,
            upstream_id=upstream.id,
        )
        made = Stored(
            id=id_,
            org_id=caller.org_id,
            user_id=caller.user_id,
            upstream_id=upstream.id,
            sealed=sealed,
            created_at=now,
            updated_at=now,
        )
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            stored = await store.put(connection, made)
            await self._audit.record(connection, actor, entry("stored", upstream.id))
        self._changes.tell(caller.org_id, caller.user_id, upstream.id)
        _log.info("brought_credential_stored", upstream=str(upstream.id))
        return self._report(upstream, stored)

    async def report(self, caller: Caller, upstream: Upstream) -> Report:
        """Return how the user's values for an upstream stand.

        Raises:
            NotFoundError: The upstream asks for nothing.
        """
        form_of(upstream)
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            stored = await store.find(connection, caller.user_id, upstream.id)
        return Report(Standing.MISSING) if stored is None else self._report(upstream, stored)

    async def delete(self, caller: Caller, upstream: Upstream) -> None:
        """Remove the user's values for an upstream, whatever that asks for by now.

        Raises:
            NotFoundError: There are none.
        """
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            found = await store.delete(connection, caller.user_id, upstream.id)
            if found:
                await self._audit.record(
                    connection, Actor(caller.org_id, caller.user_id), entry("removed", upstream.id)
                )
        self._changes.tell(caller.org_id, caller.user_id, upstream.id, gone=True)
        if not found:
            raise NotFoundError(_NOTHING)
        _log.info("brought_credential_removed", upstream=str(upstream.id))

    async def delete_everything(self, org_id: OrgId, user_id: UserId) -> None:
        """Remove all values of a user who is no member any more."""
        async with self._database.user_transaction(org_id, user_id) as connection:
            removed = await store.delete_everything(connection, user_id)
            for upstream_id in removed:
                await self._audit.record(connection, Actor(org_id, user_id), entry("removed", upstream_id))
        for upstream_id in removed:
            self._changes.tell(org_id, user_id, upstream_id, gone=True)

    def _report(self, upstream: Upstream, stored: Stored) -> Report:
        try:
            brought = self._vault.open(stored)
        except SealError:
            # Nobody can use it any more, and to give it again mends it.
            return Report(Standing.REJECTED, (), stored.created_at, stored.updated_at)
        moved = brought.destination != destination_of(upstream)
        standing = Standing.OUTDATED if moved else Standing(stored.status)
        return Report(standing, tuple(brought.values), stored.created_at, stored.updated_at)
