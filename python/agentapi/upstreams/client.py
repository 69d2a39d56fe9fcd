"""The gateway's one door to upstream servers: requests, subscriptions, and what is known of each server."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
from mcp_types import LOG_LEVEL_META_KEY

from agentapi.errors import UpstreamUnaskedError
from agentapi.upstreams.breakers import UNGUARDED, Operation, UpstreamBreakers
from agentapi.upstreams.credentials import with_credential
from agentapi.upstreams.failures import BrokenError, ClosedError, UnprocessedError
from agentapi.upstreams.link import Bounds, Caller, Era, Profile, ToldPeer
from agentapi.upstreams.listening import Filter, listen_on
from agentapi.upstreams.models import Transport
from agentapi.upstreams.retries import Retries
from agentapi.upstreams.wanted import ConnectionKey, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from agentapi.principal import OrgId, SessionId, UpstreamId, UserId
    from agentapi.upstreams.connections import ConnectionPool
    from agentapi.upstreams.credentials import Credential, Credentials
    from agentapi.upstreams.link import Peer
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.transports import TransportFactory

__all__ = ["Sharing", "UpstreamClient"]

_log = structlog.get_logger(__name__)

Sharing = Literal["session", "user"]
"""Who shares the process of a stdio upstream: nobody but one legacy session, or all that a user does."""

_MAX_REMEMBERED: Final = 10_000
_TRUSTED_S: Final = 3600.0
"""How long an upstream that spoke a legacy revision is not asked again whether it has learnt a modern one."""
_UNBOUNDED: Final = Bounds()
_ASKABLE: Final = ("elicitation", "roots", "sampling")


@dataclass(frozen=True, slots=True)
class _Known:
    era: Era
    asked: float


class UpstreamClient:
    """Speaks to upstreams in whatever era and over whatever transport they have.

    Args:
        pool: The connections of the process, running.
        transports: Opens them.
        credentials: With which.
        clock: Monotonic seconds.
        breakers: The circuits in front of them; by default of this client alone.
        retries: Tries again, likewise.
        stdio_sharing: Who shares a stdio process.
        bounds: On whole answers.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        transports: TransportFactory,
        *,
        credentials: Credentials,
        clock: Callable[[], float],
        breakers: UpstreamBreakers | None = None,
        retries: Retries | None = None,
        stdio_sharing: Sharing = "user",
        bounds: Bounds = _UNBOUNDED,
    ) -> None:
        self._pool = pool
        self._transports = transports
        self._credentials = credentials
        self._clock = clock
        self._breakers = UpstreamBreakers() if breakers is None else breakers
        self._retries = Retries() if retries is None else retries
        self._stdio_sharing = stdio_sharing
        self._bounds = bounds
        self._eras: OrderedDict[tuple[UpstreamId, int], _Known] = OrderedDict()
        self._profiles: OrderedDict[ConnectionKey, tuple[float, Profile]] = OrderedDict()
        self._retired: OrderedDict[UpstreamId, int] = OrderedDict()
        """The last version that was replaced or deleted."""
        self._listeners: list[Callable[[Upstream, UserId, str, dict[str, Any]], None]] = []

    def era(self, upstream: Upstream) -> Era | None:
        """Return the era of ``upstream`` as far as it is known, without asking."""
        if upstream.pinned_era is not None:
            return upstream.pinned_era
        known = self._eras.get((upstream.id, upstream.version))
        return known.era if known is not None else None

    def forget_era(self, upstream: Upstream) -> None:
        """Ask again at the next occasion: it behaved as if it had changed."""
        self._eras.pop((upstream.id, upstream.version), None)
        for key in [key for key in self._profiles if key.upstream_id == upstream.id]:
            del self._profiles[key]
        self._pool.retire(lambda key: (key.upstream_id, key.version) == (upstream.id, upstream.version))

    async def profile(self, upstream: Upstream, caller: Caller) -> Profile:
        """Return what ``upstream`` says of itself to this user, remembered for an hour.

        Raises:
            UpstreamError: It cannot be reached, or the user has no credential for it.
        """
        key = _key(upstream, caller)
        remembered = self._profiles.get(key)
        if remembered is not None and self._clock() - remembered[0] < _TRUSTED_S:
            self._profiles.move_to_end(key)
            return remembered[1]

        async def ask(credential: Credential) -> Profile:
            async with self._pool.lease(self._shared(upstream, caller, credential)) as link:
                return link.profile

        return await with_credential(self._credentials, upstream, caller, ask)

    async def connect(self, upstream: Upstream, caller: Caller) -> None:
        """Have a connection to ``upstream`` with the caller's credential.

        Raises:
            UpstreamNeedsConnectionError: The user has none, or one that it does not accept.
            UpstreamError: It cannot be reached.
        """

        async def ask(credential: Credential) -> None:
            async with self._pool.lease(self._shared(upstream, caller, credential)):
                return

        await with_credential(self._credentials, upstream, caller, ask)

    async def request(
        self,
        upstream: Upstream,
        caller: Caller,
        method: str,
        params: Mapping[str, Any],
        *,
        timeout_s: float,
        peer: Peer | None = None,
        repeatable: bool = False,
        definition: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the raw result of one request.

        A request that the upstream never looked at, because the connection was closed before it was sent or the
        session forgotten, runs once more on a fresh connection; one whose credential it refused, with another one. One
        that is ``repeatable`` is tried again for a while where that may help. Nothing else is tried twice.

        Args:
            upstream: The server.
            caller: Who asks, on whose behalf.
            method: Of the protocol.
            params: Without an envelope; ``_meta`` may hold ``progressToken`` and the level of log messages.
            timeout_s: Bound on the answer, once connected, and on the time in which it is tried again.
            peer: Where messages go that the upstream sends meanwhile; without one they are dropped.
            repeatable: Whether asking twice does no harm.
            definition: Of the tool that is called, for the headers that repeat its arguments; otherwise what a list
                on the same connection has shown is used.

        Raises:
            MCPError: The upstream's own error, unchanged.
            UpstreamNeedsConnectionError: The user has no credential for it, or one that it does not accept.
            UpstreamTimeoutError: No answer within ``timeout_s``.
            UpstreamRestsError: It has failed too often of late.
            UpstreamError: It cannot be reached, or the connection broke.
        """
        logs = (params.get("_meta") or {}).get(LOG_LEVEL_META_KEY) is not None
        operation = Operation.of(method)

        left_s, told = timeout_s, None if peer is None else ToldPeer(peer)

        async def once(credential: Credential) -> dict[str, Any]:
            wanted = await self._wanted(upstream, caller, credential, logs=logs)
            async with self._pool.lease_for_request(wanted) as link:
                try:
                    with self._breakers.guard(upstream, caller.user_id, operation):
                        return await link.request(
                            method,
                            params,
                            caller=caller,
                            timeout_s=left_s,
                            bounds=self._bounds,
                            peer=told,
                            definition=definition,
                        )
                except BrokenError:
                    raise
                except (ClosedError, UnprocessedError):
                    self._pool.discard(link)
                    raise

        async def attempt(credential: Credential) -> dict[str, Any]:
            try:
                return await once(credential)
            except UnprocessedError:
                return await once(credential)

        async def ask(within_s: float) -> dict[str, Any]:
            nonlocal left_s
            left_s = within_s
            return await with_credential(self._credentials, upstream, caller, attempt)

        if not repeatable:
            return await ask(timeout_s)
        return await self._retries.run(
            upstream, ask, within_s=timeout_s, unless=lambda: told is not None and told.anything
        )

    async def notify(
        self, upstream: Upstream, caller: Caller, method: str, params: Mapping[str, Any] | None = None
    ) -> None:
        """Pass on a notification of a client to a legacy server that has a connection of its conversation."""
        if not caller.conversation:
            return
        mine = _key(upstream, caller, conversation=caller.conversation)
        for link in self._pool.links(lambda key: replace(key, declared="", credential="") == mine):
            if link.profile.era is Era.LEGACY:
                await link.notify(method, params)

    @contextlib.asynccontextmanager
    async def listen(
        self,
        upstream: Upstream,
        caller: Caller,
        *,
        tools: bool,
        prompts: bool,
        resources: bool,
        uris: frozenset[str],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> AsyncIterator[None]:
        """Keep changes flowing to ``on_event`` for the length of the context.

        Raises:
            UpstreamError: The upstream offers none of them, or stopped sending them, also in the midst of the context.
            MCPError: It refused.
        """
        wanted = Filter(tools=tools, prompts=prompts, resources=resources, uris=uris)

        async def connect(credential: Credential) -> Credential:
            async with self._pool.lease(self._shared(upstream, caller, credential)):
                return credential

        # Whoever listens does so for long, and is told of a refusal when the connection is made, or not at all.
        credential = await with_credential(self._credentials, upstream, caller, connect)
        async with (
            self._pool.lease(self._shared(upstream, caller, credential)) as link,
            listen_on(link, wanted, caller, on_event),
        ):
            yield

    def on_change(self, callback: Callable[[Upstream, UserId, str, dict[str, Any]], None]) -> None:
        """Call ``callback`` with upstream, user, method and parameters of every change that any connection hears."""
        self._listeners.append(callback)

    def close_upstream(self, upstream_id: UpstreamId, version: int) -> None:
        """Close the connections to an upstream up to ``version``, which has ended, and open none like them."""
        self._pool.close(lambda key: key.upstream_id == upstream_id and key.version <= version)
        self._retired[upstream_id] = max(version, self._retired.pop(upstream_id, 0))
        while len(self._retired) > _MAX_REMEMBERED:
            self._retired.popitem(last=False)

    def close_organization(self, org_id: OrgId) -> None:
        """Close all connections of an organisation, and with them its processes and their directories, at once."""
        self._pool.close(lambda key: key.org_id == org_id)

    def close_user(self, upstream_id: UpstreamId, user_id: UserId, *, at_once: bool) -> None:
        """Close the connections of a user whose credential for an upstream has changed, or at once if it is gone."""

        def theirs(key: ConnectionKey) -> bool:
            return key.upstream_id == upstream_id and key.user_id == user_id

        if at_once:
            self._pool.close(theirs)
        else:
            self._pool.retire(theirs)
        for key in [key for key in self._profiles if key.upstream_id == upstream_id and key.user_id == user_id]:
            del self._profiles[key]

    def end_conversation(self, org_id: OrgId, conversation: str) -> None:
        """Close the connections of a legacy session that has ended."""
        self._pool.close(lambda key: key.org_id == org_id and key.conversation == conversation != "")

    async def close_session(self, session_id: SessionId) -> None:
        """End the processes of a session that has ended, and wait until they have, so that its directory can go.

        Whoever calls has seen to it that nobody acts in the session any more.
        """
        await self._pool.end(lambda key: key.session_id == session_id)

    def drop_session(self, session_id: SessionId) -> None:
        """Do the same at once, without a wait."""
        self._pool.close(lambda key: key.session_id == session_id)

    async def _wanted(self, upstream: Upstream, caller: Caller, credential: Credential, *, logs: bool) -> Wanted:
        era = self.era(upstream)
        if era is None:
            async with self._pool.lease(self._shared(upstream, caller, credential)) as link:
                era = link.profile.era
        own_process = self._stdio_sharing == "session" or upstream.transport is not Transport.STDIO
        conversation = caller.conversation if own_process else ""
        if era is Era.MODERN:
            # It is told of its client with each request, so that requests of a user need no connections of their own.
            if upstream.transport is not Transport.STDIO:
                conversation = ""
            return self._make(upstream, caller, credential, conversation=conversation, declared={}, alone=False)
        declared = {name: caller.capabilities[name] for name in _ASKABLE if caller.capabilities.get(name) is not None}
        alone = not conversation and (bool(declared) or logs)
        return self._make(upstream, caller, credential, conversation=conversation, declared=declared, alone=alone)

    def _shared(self, upstream: Upstream, caller: Caller, credential: Credential) -> Wanted:
        return self._make(upstream, caller, credential, conversation="", declared={}, alone=False)

    def _make(
        self,
        upstream: Upstream,
        caller: Caller,
        credential: Credential,
        *,
        conversation: str,
        declared: dict[str, Any],
        alone: bool,
    ) -> Wanted:
        if upstream.version <= self._retired.get(upstream.id, 0):
            raise UpstreamUnaskedError(f"Upstream '{upstream.name}' was changed or deleted meanwhile.")
        key = ConnectionKey(
            upstream.org_id,
            upstream.id,
            upstream.version,
            caller.user_id,
            conversation,
            json.dumps(declared, sort_keys=True) if declared else "",
            alone,
            credential.version,
            _session_of(upstream, caller),
        )

        def opened(profile: Profile) -> None:
            profile.require(upstream.pinned_era)
            self._remember(upstream, caller, profile)

        def hear(method: str, params: dict[str, Any]) -> None:
            for listener in self._listeners:
                try:
                    listener(upstream, caller.user_id, method, params)
                except Exception:  # noqa: BLE001 - a defect of one must not end the connection of another
                    _log.exception("change_listener_failed")

        told = upstream.transport is not Transport.STDIO
        known = self._eras.get((upstream.id, upstream.version))
        fresh = known is not None and self._clock() - known.asked < _TRUSTED_S
        return Wanted(
            key,
            upstream.name,
            self._transports.open(upstream, credential, key.session_id),
            era=upstream.pinned_era or (known.era if known is not None and fresh else None),
            capabilities=declared,
            client_info=caller.client_info if conversation else {},
            opened=opened,
            hear=hear,
            opening=self._breakers.guard(upstream, caller.user_id, Operation.CONNECT),
            parting=self._breakers.guard(upstream, caller.user_id, Operation.DISCONNECT) if told else UNGUARDED,
        )

    def _remember(self, upstream: Upstream, caller: Caller, profile: Profile) -> None:
        known = self._eras.pop((upstream.id, upstream.version), None)
        if known is None or known.era is not profile.era or self._clock() - known.asked >= _TRUSTED_S:
            known = _Known(profile.era, self._clock())
        self._eras[upstream.id, upstream.version] = known
        key = _key(upstream, caller)
        self._profiles.pop(key, None)
        self._profiles[key] = (self._clock(), profile)
        for remembered in (self._eras, self._profiles):
            while len(remembered) > _MAX_REMEMBERED:
                remembered.popitem(last=False)


def _key(upstream: Upstream, caller: Caller, *, conversation: str = "") -> ConnectionKey:
    return ConnectionKey(
        upstream.org_id,
        upstream.id,
        upstream.version,
        caller.user_id,
        conversation,
        session_id=_session_of(upstream, caller),
    )


def _session_of(upstream: Upstream, caller: Caller) -> SessionId | None:
    """Return the session whose own the connection is: what runs here runs in the session's directory."""
    return caller.session_id if upstream.transport is Transport.STDIO else None
