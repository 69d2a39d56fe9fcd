"""The credential of a call: the caller's own connection, fresh, and sent to no other address than it was made for.

An opened grant is kept for as long as nothing about it can have changed unseen: what this process changes it forgets at
once, what another one changes as soon as it is told, and where nothing is told it reads the row again within a second.

A credential that an upstream refuses is refreshed once. If the upstream refuses what came of that, refreshing cannot
help, so the connection is marked and its owner asked; calls then end here and reach neither upstream nor provider.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from agentapi._core import SealError
from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError
from agentapi.oauth import store
from agentapi.oauth.discovery import union
from agentapi.oauth.errors import ReconnectNeededError
from agentapi.principal import UpstreamId
from agentapi.storage.notifier import DEAF, WITHIN_S
from agentapi.upstreams.credentials import Credential
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from agentapi.oauth.models import Connection
    from agentapi.oauth.refresh import Refresher
    from agentapi.oauth.vault import Vault
    from agentapi.principal import OrgId, UserId
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import Change, ChangeFeed
    from agentapi.upstreams.challenges import Challenge
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["ConnectionCredentials"]

_KEEP_S: Final = 30.0
_KEEP_DUE_S: Final = 5.0
"""The same for a token that is due for a refresh: the new one is not to wait for long, nor the database be asked by
every call while the provider is away."""
_SKEW_S: Final = 30.0
"""This long before its end a token is not used any more, as for ``Refresher``."""
_AGAIN_S: Final = 60.0
"""How soon after a refresh that a refusal led to another refusal says that refreshing does not help."""
_MAX_ENTRIES: Final = 10_000

_Key = tuple["OrgId", "UserId", "UpstreamId"]


@dataclass(frozen=True, slots=True)
class _Kept:
    credential: Credential
    endpoint: str | None
    read_at: datetime
    until: datetime


class ConnectionCredentials:
    """Gives upstreams the credential of whoever calls; satisfies ``upstreams.credentials.Credentials``.

    Args:
        database: Where connections are.
        vault: Opens them.
        refresher: Keeps them fresh.
        clock: The time, with its zone.
        ahead_s: How long before its end a token is due for a refresh.
        feed: Tells what other processes change.
        max_entries: Bound on opened grants; the least recently used goes first.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        refresher: Refresher,
        clock: Callable[[], datetime],
        ahead_s: float = 300.0,
        feed: ChangeFeed = DEAF,
        max_entries: int = _MAX_ENTRIES,
    ) -> None:
        self._database = database
        self._vault = vault
        self._refresher = refresher
        self._clock = clock
        self._ahead = timedelta(seconds=max(ahead_s, _SKEW_S))
        self._max_entries = max_entries
        self._feed = feed
        self._epoch = 0
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._renewed: OrderedDict[_Key, tuple[str, datetime]] = OrderedDict()
        """The version that a refusal led to, and when."""
        feed.listen(("oauth_connections",), self._told, self._forget_all)

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        """Return the credential of ``caller`` for ``upstream``.

        Raises:
            UpstreamNeedsConnectionError: The caller has no connection.
            ReconnectNeededError: The caller's connection is of no more use.
            AuthorizationServerError: It is to be refreshed and the provider cannot do so now.
        """
        key = (caller.org_id, caller.user_id, upstream.id)
        kept = self._kept.get(key)
        epoch, now = self._epoch, self._clock()
        if kept is not None and kept.endpoint == upstream.endpoint and self._is_good(kept, now):
            self._kept.move_to_end(key)
            return kept.credential
        held = await self._held(upstream, caller)
        try:
            usable = await self._refresher.usable(held)
        except UpstreamNeedsConnectionError as error:
            raise _of(error, upstream) from error
        return self._opened(upstream, caller, usable, read_at=now if epoch == self._epoch else None)

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        """Return a fresh credential in the place of one that ``upstream`` refused.

        Raises:
            ReconnectNeededError: Refreshing is not possible, or did not help.
            UpstreamNeedsConnectionError: The connection is gone, or needs more scopes, which the error names.
            AuthorizationServerError: The provider cannot refresh it now.
            UpstreamError: It has the scopes that the upstream names.
        """
        self._kept.pop((caller.org_id, caller.user_id, upstream.id), None)
        held = await self._held(upstream, caller)
        if challenge.error == "insufficient_scope":
            raise _too_narrow(upstream, held, challenge)
        if _version(held) != credential.version:
            # Somebody has renewed it meanwhile.
            return await self.credential(upstream, caller)
        try:
            if self._did_not_help(upstream, caller, credential):
                await self._refresher.give_up(held, "refused_by_upstream")
            renewed = await self._refresher.refresh(held)
        except UpstreamNeedsConnectionError as error:
            raise _of(error, upstream) from error
        another = self._opened(upstream, caller, renewed, read_at=None)
        self._renewed[caller.org_id, caller.user_id, upstream.id] = another.version, self._clock()
        if len(self._renewed) > self._max_entries:
            self._renewed.popitem(last=False)
        return another

    def changed(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, gone: bool) -> None:
        """Read the connection anew at the next call; a listener of ``Changes``."""
        del gone
        # Whoever has just read the row may have read it before the change.
        self._epoch += 1
        self._kept.pop((org_id, user_id, upstream_id), None)

    def _told(self, change: Change) -> None:
        if change.user_id is None or change.id is None:
            self._forget_all()
        else:
            self.changed(change.org_id, change.user_id, UpstreamId(change.id), gone=False)

    def _forget_all(self) -> None:
        self._epoch += 1
        self._kept.clear()

    def _is_good(self, kept: _Kept, now: datetime) -> bool:
        return now < kept.until and (now - kept.read_at < timedelta(seconds=WITHIN_S) or self._feed.hears)

    async def _held(self, upstream: Upstream, caller: Caller) -> Connection:
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            held = await store.find_connection(connection, caller.user_id, upstream.id)
        if held is None:
            raise UpstreamNeedsConnectionError(
                f"Upstream '{upstream.name}' needs an OAuth connection of yours, and you have none.",
                upstream_id=upstream.id,
            )
        return held

    def _did_not_help(self, upstream: Upstream, caller: Caller, credential: Credential) -> bool:
        renewed = self._renewed.get((caller.org_id, caller.user_id, upstream.id))
        if renewed is None or renewed[0] != credential.version:
            return False
        return self._clock() - renewed[1] < timedelta(seconds=_AGAIN_S)

    def _opened(self, upstream: Upstream, caller: Caller, held: Connection, *, read_at: datetime | None) -> Credential:
        try:
            grant = self._vault.open_grant(held)
        except SealError as error:
            raise UpstreamError(f"Upstream '{upstream.name}' is unavailable: {reason_of(error)}.") from error
        if grant.endpoint != upstream.endpoint:
            raise ReconnectNeededError(
                f"Upstream '{upstream.name}' is at another address than when you connected; connect again.",
                upstream_id=upstream.id,
            )
        key = (caller.org_id, caller.user_id, upstream.id)
        kept = self._kept.pop(key, None)
        if kept is not None and kept.credential.version == _version(held):
            credential = kept.credential
        else:
            bearer = SecretStr(f"Bearer {grant.access_token.get_secret_value()}")
            credential = Credential(headers={"Authorization": bearer}, version=_version(held), user_id=caller.user_id)
        if read_at is None:
            return credential
        self._kept[key] = _Kept(credential, upstream.endpoint, read_at, self._until(held))
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)
        return credential

    def _until(self, held: Connection) -> datetime:
        now = self._clock()
        until = now + timedelta(seconds=_KEEP_S)
        if held.expires_at is None:
            return until
        due = held.expires_at - self._ahead
        if now < due:
            return min(until, due)
        return min(now + timedelta(seconds=_KEEP_DUE_S), held.expires_at - timedelta(seconds=_SKEW_S))


def _version(held: Connection) -> str:
    """Return what names the tokens: a connection that is made anew counts its generations from one again."""
    return f"{held.id}:{held.created_at.timestamp()}:{held.generation}"


def _of(error: UpstreamNeedsConnectionError, upstream: Upstream) -> UpstreamNeedsConnectionError:
    """Return the error with the upstream that it is about."""
    return type(error)(f"Upstream '{upstream.name}': {error.message}", upstream_id=upstream.id)


def _too_narrow(upstream: Upstream, held: Connection, challenge: Challenge) -> UpstreamError:
    missing = tuple(scope for scope in challenge.scopes if scope not in held.scopes)
    if not missing:
        # To connect again with what there is already would lead here again.
        return UpstreamError(
            f"Upstream '{upstream.name}' says that your connection may not do this, and names no scope that it lacks."
        )
    return UpstreamNeedsConnectionError(
        f"Upstream '{upstream.name}' needs more than you agreed to when you connected: {' '.join(missing)}.",
        upstream_id=upstream.id,
        scopes=union((), missing),
    )
