"""Make, show, rotate and revoke API keys.

Invariants:

* A key carries no permission that its maker's role lacks, when it is made and whenever it is used, and no scope that
  the maker's own token had to carry and did not. It is never a platform admin.
* Whoever comes with a key, or in a session, makes and changes none: what leaks can neither outlive itself nor multiply.
* Only its maker rotates a key, since whoever does sees the new one; an admin may revoke it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.errors import ConflictError, ForbiddenError, NotFoundError
from agentapi.identity.api_keys import store
from agentapi.identity.api_keys.models import MCP_SCOPES, ApiKey, KeyId
from agentapi.identity.api_keys.text import hash_of, write_key
from agentapi.identity.permissions import Permission, permits, within
from agentapi.preconditions import ANY, IfMatch
from agentapi.principal import Role, UserId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentapi.audit.log import AuditLog
    from agentapi.identity.api_keys.directory import KeyDirectory
    from agentapi.principal import OrgId, Principal
    from agentapi.storage.database import Database

__all__ = ["NO_KEY", "KeyBook"]

NO_KEY: Final = "There is no such API key."


class KeyBook:
    """The keys of organisations, always as a principal.

    Args:
        database: Where they are.
        audit: Where changes are recorded.
        directory: Told of changes.
        asks_scopes: Whether the tokens of an issuer must carry scopes by operation.
        after_revocation: Run with every key that was revoked, for what was made with it.
        now: The time.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        directory: KeyDirectory,
        asks_scopes: Callable[[str], bool],
        after_revocation: Sequence[Callable[[OrgId, KeyId], Awaitable[object]]] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._audit = audit
        self._directory = directory
        self._asks_scopes = asks_scopes
        self._after_revocation = after_revocation
        self._now = now

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        agent: bool,
        role: Role | None,
        scopes: frozenset[str],
        workspace: str | None,
        lifetime: timedelta | None,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it and its text, which is kept nowhere.

        Raises:
            ForbiddenError: It would be good for more than its maker.
            NotFoundError: There is no such workspace.
        """
        _require_no_key(principal)
        role = role or (Role.AGENT if agent else _own_role(principal.role))
        if role is Role.PLATFORM_ADMIN or not within(role, principal.role):
            raise ForbiddenError(f"A key with the role '{role}' would be good for more than you are.")
        wider = scopes & {*MCP_SCOPES} - principal.scopes if self._asks_scopes(principal.issuer) else frozenset()
        if wider:
            raise ForbiddenError(f"Your own token lacks the scopes: {' '.join(sorted(wider))}.")
        key_id, now = KeyId(uuid4()), self._now()
        text = write_key(principal.org_id, key_id)
        key = ApiKey(
            org_id=principal.org_id,
            id=key_id,
            name=name,
            created_by=principal.user_id,
            user_id=UserId(key_id) if agent else principal.user_id,
            role=role,
            scopes=scopes,
            workspace_id=None,
            workspace=workspace,
            hash=hash_of(text),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        async with self._database.tenant_transaction(principal) as connection:
            if workspace is not None:
                workspace_id = await store.find_workspace_id(connection, workspace)
                if workspace_id is None:
                    raise NotFoundError("There is no such workspace.")
                key = replace(key, workspace_id=workspace_id)
            if agent:
                await store.add_agent(connection, key)
            await store.insert(connection, key)
            granted = " ".join(sorted(scopes))
            entry = _entry("created", key_id, name=name, role=role.value, scopes=granted, agent=agent)
            await self._audit.record(connection, principal, entry)
        self._database.when_committed(lambda: self._directory.forget(key.org_id, key.id))
        return key, text

    async def page(self, principal: Principal, *, after: tuple[str, KeyId] | None, limit: int) -> list[ApiKey]:
        """Return up to ``limit`` keys in order of name and id, from behind ``after``: an admin's list has all."""
        async with self._database.tenant_transaction(principal) as connection:
            if permits(principal, Permission.API_KEYS_ALL):
                return await store.page(connection, after=after, limit=limit)
            return await store.page_of_maker(connection, principal.user_id, after=after, limit=limit)

    async def get(self, principal: Principal, key_id: KeyId) -> ApiKey:
        """Return a key.

        Raises:
            NotFoundError: There is none that the principal may know of.
        """
        async with self._database.tenant_transaction(principal) as connection:
            return _known(principal, await store.find(connection, key_id))

    async def rotate(
        self, principal: Principal, key_id: KeyId, *, overlap: timedelta, expected: IfMatch = ANY
    ) -> tuple[ApiKey, str]:
        """Give a key a new secret; the old one stays good for ``overlap``, one that is older for no longer.

        Raises:
            ConflictError: The key has ended.
            ForbiddenError: Somebody else made it.
            NotFoundError: There is none that the principal may know of.
        """
        _require_no_key(principal)
        text, now = write_key(principal.org_id, key_id), self._now()
        async with self._database.tenant_transaction(principal) as connection:
            key = _known(principal, await store.hold(connection, key_id))
            if key.created_by != principal.user_id:
                raise ForbiddenError("Only whoever made a key may rotate it.")
            expected.check(key.version)
            if not await store.rotate(connection, key_id, hash_of(text), now=now, until=now + overlap):
                raise ConflictError("The API key is expired or revoked.")
            entry = _entry("rotated", key_id, overlap_s=int(overlap.total_seconds()))
            await self._audit.record(connection, principal, entry)
        self._database.when_committed(lambda: self._directory.forget(key.org_id, key.id))
        return await self.get(principal, key_id), text

    async def revoke(self, principal: Principal, key_id: KeyId, *, expected: IfMatch = ANY) -> None:
        """End a key, and the one from before its rotation; a second time does what failed at last.

        Raises:
            NotFoundError: There is none that the principal may know of.
        """
        _require_no_key(principal)
        async with self._database.tenant_transaction(principal) as connection:
            key = _known(principal, await store.hold(connection, key_id))
            expected.check(key.version)
            if await store.revoke(connection, key_id, now=self._now()):
                await self._audit.record(connection, principal, _entry("revoked", key_id))
        self._directory.forget(key.org_id, key.id)
        for step in self._after_revocation:
            await step(key.org_id, key.id)

    async def revoke_of_maker(self, org_id: OrgId, user_id: UserId) -> None:
        """End all keys that somebody made who is no member any more: should they come back, their keys do not."""
        async with self._database.organization_transaction(org_id) as connection:
            ended = await store.revoke_of_maker(connection, user_id, now=self._now())
            for key_id in ended:
                await self._audit.record(connection, Actor(org_id, user_id), _entry("revoked", key_id))
        for key_id in ended:
            self._directory.forget(org_id, key_id)


def _known(principal: Principal, key: ApiKey | None) -> ApiKey:
    if key is None or not (key.created_by == principal.user_id or permits(principal, Permission.API_KEYS_ALL)):
        raise NotFoundError(NO_KEY)
    return key


def _own_role(role: Role) -> Role:
    """Return the role of a key that acts as its maker, where the maker asks for no narrower one."""
    return Role.ORG_ADMIN if role is Role.PLATFORM_ADMIN else role


def _require_no_key(principal: Principal) -> None:
    if principal.key_id is not None or principal.session_id is not None:
        raise ForbiddenError("Neither an API key nor a session makes or changes API keys.")


def _entry(verb: str, key_id: KeyId, **details: str | int | bool) -> Entry:
    return Entry(f"api_keys.{verb}", Outcome.SUCCESS, f"key:{key_id}", details)
