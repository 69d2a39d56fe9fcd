"""The credential of a call to an upstream whose users bring their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from agentapi._core import SealError
from agentapi.audit.models import Actor, Outcome
from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.oauth.brought import store
from agentapi.oauth.brought.models import StoredStatus, destination_of, entry
from agentapi.oauth.errors import ReconnectNeededError
from agentapi.storage.notifier import DEAF
from agentapi.tenancy.views import TenantViews
from agentapi.upstreams.credentials import Credential
from agentapi.upstreams.form_values import place_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pydantic import SecretStr

    from agentapi.audit.log import AuditLog
    from agentapi.oauth.brought.models import BroughtId, Stored
    from agentapi.oauth.brought.vault import BroughtVault
    from agentapi.oauth.changes import Changes
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.upstreams.challenges import Challenge
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["BroughtCredentials", "credential_of"]

_log = structlog.get_logger(__name__)
_REMEMBERED_S: Final = 30.0
"""How long what was opened is kept, for as long as nothing is said to have changed."""


def credential_of(
    upstream: Upstream, values: Mapping[str, SecretStr], *, id_: BroughtId, user_id: UserId
) -> Credential:
    """Return values where the upstream's form puts them, under a version that no other values have."""
    if upstream.credential_form is None:
        raise AssertionError(upstream.id)
    placed = place_values(upstream.credential_form, values)
    return Credential(
        headers=placed.headers,
        query=placed.query,
        environment=placed.environment,
        version=_version(id_),
        user_id=user_id,
    )


class BroughtCredentials:
    """Gives each caller what he brought himself; satisfies ``upstreams.credentials.Credentials``.

    Args:
        database: Where it is.
        vault: Opens it.
        clock: The time, with its zone.
        monotonic: Seconds, for what is remembered.
        changes: Told of what was given, refused or taken back, so that nothing stays open that an old value opened.
        audit: Told of what upstreams refused.
        feed: Tells what other processes change.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: BroughtVault,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        changes: Changes,
        audit: AuditLog,
        feed: ChangeFeed = DEAF,
    ) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._changes = changes
        self._audit = audit
        changes.listen(self._changed)
        self._views: TenantViews[Credential] = TenantViews(
            clock=monotonic, ttl_s=_REMEMBERED_S, feed=feed, topics=("brought_credentials",)
        )

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        """Return what ``caller`` brought for ``upstream``.

        Raises:
            UpstreamNeedsConnectionError: Nothing.
            ReconnectNeededError: It is of no more use.
        """

        async def load() -> Credential:
            stored = await self._find(upstream, caller)
            if stored is None:
                raise UpstreamNeedsConnectionError(
                    f"Upstream '{upstream.name}' needs a credential of yours, and you have given none.",
                    upstream_id=upstream.id,
                )
            return self._opened(upstream, stored)

        return await self._views.get(caller.org_id, (caller.user_id, upstream.id, upstream.version), load)

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        """Return what the caller brought meanwhile, or mark what was refused.

        Raises:
            UpstreamNeedsConnectionError: The credential is good and not good enough.
            ReconnectNeededError: The caller has to give another one.
        """
        stored = await self._find(upstream, caller)
        if stored is not None and _version(stored.id) != credential.version:
            self._views.forget(caller.org_id)
            return self._opened(upstream, stored)
        narrow = challenge.error == "insufficient_scope"
        if stored is not None:
            status = StoredStatus.NARROW if narrow else StoredStatus.REJECTED
            async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
                await store.mark(connection, stored, status, now=self._clock())
                told = entry(status, upstream.id, Outcome.FAILURE)
                await self._audit.record(connection, Actor(caller.org_id, caller.user_id), told)
            _log.info("brought_credential_refused", upstream=str(upstream.id), status=status)
        if narrow:
            # It is still good for other calls, which go on with it.
            needed = f" ({' '.join(challenge.scopes)})" if challenge.scopes else ""
            raise UpstreamNeedsConnectionError(
                f"Upstream '{upstream.name}' wants a credential that may do more than yours{needed}; give another one.",
                upstream_id=upstream.id,
                scopes=challenge.scopes,
            )
        self._changes.tell(caller.org_id, caller.user_id, upstream.id, gone=True)
        raise _enter_again(upstream, "does not accept your credential any more")

    def _changed(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, gone: bool) -> None:
        del user_id, upstream_id, gone
        self._views.forget(org_id)

    async def _find(self, upstream: Upstream, caller: Caller) -> Stored | None:
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            return await store.find(connection, caller.user_id, upstream.id)

    def _opened(self, upstream: Upstream, stored: Stored) -> Credential:
        if stored.status is StoredStatus.REJECTED:
            raise _enter_again(upstream, "does not accept your credential any more")
        try:
            brought = self._vault.open(stored)
        except SealError:
            _log.warning("brought_credential_does_not_open", upstream=str(upstream.id))
            raise _enter_again(upstream, "cannot be given your credential, which does not open any more") from None
        if brought.destination != destination_of(upstream):
            raise _enter_again(upstream, "has another address or form than when you gave your credential")
        return credential_of(upstream, brought.values, id_=stored.id, user_id=stored.user_id)


def _version(id_: BroughtId) -> str:
    return f"brought:{id_}"


def _enter_again(upstream: Upstream, why: str) -> ReconnectNeededError:
    return ReconnectNeededError(f"Upstream '{upstream.name}' {why}; enter it again.", upstream_id=upstream.id)
