"""Changes of upstreams, from one subscription for each user and upstream to however many streams of its clients.

An event says that something changed and no more. So whatever connection of the user heard of it, every stream of the
user that listens to it is told, and after a gap in the subscription everything that is listened to is reported once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from mcp import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import METHOD_NOT_FOUND

from agentapi.errors import AgentAPIError
from agentapi.gateway.background import Background
from agentapi.gateway.exchange import Interest
from agentapi.upstreams.link import Caller, Era
from agentapi.upstreams.listening import whole_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from agentapi.gateway.rewrite import Rewriter
    from agentapi.principal import OrgId, Principal, UpstreamId, UserId, WorkspaceId
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.link import Profile
    from agentapi.upstreams.models import Upstream

__all__ = ["Audience", "Source", "Subscriptions"]

_log = structlog.get_logger(__name__)

_UPDATED: Final = "notifications/resources/updated"
_MAX_RETRY_S: Final = 300.0

_FeedKey = tuple["UpstreamId", int, "UserId"]


@dataclass(frozen=True, slots=True)
class Source:
    """An upstream that a client listens to, with the URIs that it knows by their own form."""

    upstream: Upstream
    rewriter: Rewriter
    uris: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    source: Source
    interest: Interest
    on_event: Callable[[str, dict[str, Any]], None]

    def hear(self, method: str, params: dict[str, Any]) -> None:
        if method == _UPDATED:
            if whole_of(params.get("uri"), self.source.uris) is not None:
                self.on_event(method, self.source.rewriter.notification(method, params))
        elif _is_wanted(self.interest, method):
            self.on_event(method, params)


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """A client's stream, whatever its workspace has of upstreams."""

    workspace_id: WorkspaceId
    user_id: UserId
    interest: Interest
    on_event: Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Audience:
    """Whose streams are meant: those of everybody, but for what is named."""

    org_id: OrgId | None = None
    workspace_id: WorkspaceId | None = None
    user_id: UserId | None = None


@dataclass(slots=True, eq=False)
class _Hold:
    """One subscription at the upstream, for as long as it lasts."""

    wanted: Interest
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it stands or has failed."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Feed:
    upstream: Upstream
    caller: Caller
    listeners: set[_Listener] = field(default_factory=set)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once what is wanted is subscribed to, or cannot be for now."""
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when listeners came or went, or a subscription ended."""

    def wanted(self) -> Interest:
        each = [listener.interest for listener in self.listeners]
        return Interest(
            tools=any(interest.tools for interest in each),
            prompts=any(interest.prompts for interest in each),
            resources=any(interest.resources for interest in each),
            uris=frozenset[str]().union(*(listener.source.uris for listener in self.listeners)),
        )

    def hear(self, method: str, params: dict[str, Any]) -> None:
        for listener in tuple(self.listeners):
            listener.hear(method, params)


class Subscriptions:
    """Listens to upstreams on behalf of the streams that are open; ``run`` owns the subscriptions.

    Args:
        client: Speaks to the upstreams.
        ready_s: How long a stream waits at its beginning for its upstreams.
        retry_s: Wait after the first failure of a subscription; it doubles with each.
    """

    def __init__(self, client: UpstreamClient, *, ready_s: float, retry_s: float = 5.0) -> None:
        self._client = client
        self._ready_s = ready_s
        self._retry_s = retry_s
        self._feeds: dict[_FeedKey, _Feed] = {}
        self._streams: defaultdict[OrgId, set[_Stream]] = defaultdict(set)
        self._background = Background()

    def __len__(self) -> int:
        return len(self._feeds)

    def run(self) -> AbstractAsyncContextManager[None]:
        """Own the subscriptions for the length of the context; leaving it ends them."""
        return self._background.run()

    @contextlib.asynccontextmanager
    async def listen(
        self,
        principal: Principal,
        workspace_id: WorkspaceId,
        sources: Iterable[Source],
        interest: Interest,
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> AsyncIterator[None]:
        """Give ``on_event`` what the sources report of ``interest``, for the length of the context.

        What is announced to the workspace it is given as well, whether there are sources or not. A source that cannot
        be listened to keeps nobody waiting; it is tried again in the background.
        """
        joined: list[tuple[_Feed, _Listener]] = []
        stream = _Stream(workspace_id, principal.user_id, interest, on_event)
        self._streams[principal.org_id].add(stream)
        try:
            for source in sources:
                feed = self._feed(source.upstream, principal)
                listener = _Listener(source, interest, on_event)
                feed.listeners.add(listener)
                feed.ready.clear()
                feed.dirty.set()
                joined.append((feed, listener))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ready_s):
                    for feed, _ in joined:
                        await feed.ready.wait()
            yield
        finally:
            self._streams[principal.org_id].discard(stream)
            if not self._streams[principal.org_id]:
                del self._streams[principal.org_id]
            for feed, listener in joined:
                feed.listeners.discard(listener)
                feed.dirty.set()

    def changed(self, upstream: Upstream, user_id: UserId, method: str, params: dict[str, Any]) -> None:
        """Tell the streams of a user what one of its connections heard."""
        feed = self._feeds.get((upstream.id, upstream.version, user_id))
        if feed is not None:
            feed.hear(method, _without_subscription_id(params))

    def announce(self, audience: Audience, method: str) -> None:
        """Tell every stream of ``audience`` once of a change that is the gateway's own."""
        org_id, theirs = audience.org_id, (audience.workspace_id, audience.user_id)
        for org in tuple(self._streams) if org_id is None else (org_id,):
            for stream in tuple(self._streams.get(org, ())):
                is_meant = all(
                    a in (None, b) for a, b in zip(theirs, (stream.workspace_id, stream.user_id), strict=True)
                )
                if is_meant and _is_wanted(stream.interest, method):
                    stream.on_event(method, {})

    def announce_to(
        self, upstream_id: UpstreamId, user_id: UserId, kinds: Iterable[str] = ("tools", "resources", "prompts")
    ) -> None:
        """Tell the streams of a user that an upstream may list other things to them now."""
        for key, feed in list(self._feeds.items()):
            if (key[0], key[2]) == (upstream_id, user_id):
                for kind in kinds:
                    feed.hear(f"notifications/{kind}/list_changed", {})

    def _feed(self, upstream: Upstream, principal: Principal) -> _Feed:
        key = upstream.id, upstream.version, principal.user_id
        feed = self._feeds.get(key)
        if feed is None:
            feed = _Feed(upstream, Caller(principal.org_id, principal.user_id))
            self._background.start(self._serve(key, feed))
            self._feeds[key] = feed
        return feed

    async def _serve(self, key: _FeedKey, feed: _Feed) -> None:
        """Keep the upstream subscribed to what the listeners want, until there are none."""
        hold: _Hold | None = None
        retry_s, broke = self._retry_s, False
        try:
            while feed.listeners:
                feed.dirty.clear()
                wait_s: float | None = None
                wanted = await self._offered(feed)
                if hold is not None and hold.ended:
                    hold, broke = None, True
                if wanted is not None and (hold is None or hold.wanted != wanted):
                    # The new one stands before the old one goes, so that nothing falls between them.
                    fresh = await self._held(feed, wanted)
                    if hold is not None:
                        hold.stop.set()
                    hold = fresh
                failed = wanted is None or (hold is not None and hold.ended)
                if failed:
                    hold, broke = None, True
                    wait_s, retry_s = retry_s, min(2 * retry_s, _MAX_RETRY_S)
                else:
                    retry_s = self._retry_s
                    if broke:
                        broke = False
                        self._report_everything(feed)
                if not feed.dirty.is_set():
                    # Whoever has joined meanwhile is not subscribed yet.
                    feed.ready.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await feed.dirty.wait()
        finally:
            if self._feeds.get(key) is feed:
                del self._feeds[key]
            if hold is not None:
                hold.stop.set()

    async def _offered(self, feed: _Feed) -> Interest | None:
        """Return what of the listeners' wishes the upstream may fulfil, or None if it cannot be asked now."""
        try:
            profile = await self._client.profile(feed.upstream, feed.caller)
        except (AgentAPIError, MCPError):
            return None
        except Exception:  # noqa: BLE001 - what nobody foresaw must not end the others; the log has it
            _log.exception("profile_crashed", upstream=feed.upstream.name)
            return None
        return _possible(feed.wanted(), profile)

    async def _held(self, feed: _Feed, wanted: Interest) -> _Hold:
        """Return a subscription once it stands or has failed; one to nothing stands at once."""
        hold = _Hold(wanted)
        if wanted == Interest():
            return hold
        self._background.start(self._hold(feed, hold))
        await hold.up.wait()
        return hold

    async def _hold(self, feed: _Feed, hold: _Hold) -> None:
        """Be subscribed until told to stop; never raises, for it shares its task group with all the others."""
        wanted = hold.wanted
        try:
            async with self._client.listen(
                feed.upstream,
                feed.caller,
                tools=wanted.tools,
                prompts=wanted.prompts,
                resources=wanted.resources,
                uris=wanted.uris,
                # What arrives is heard through ``changed``, as from any connection of the user.
                on_event=lambda _method, _params: None,
            ):
                hold.up.set()
                await hold.stop.wait()
        except (AgentAPIError, MCPError) as error:
            if isinstance(error, MCPError) and error.code == METHOD_NOT_FOUND:
                # It has no subscriptions at all, and asking again would change nothing.
                hold.up.set()
                await hold.stop.wait()
                return
            _log.info("subscription_ended", upstream=feed.upstream.name, reason=str(error))
        except Exception:  # noqa: BLE001 - what nobody foresaw must not end the others; the log has it
            _log.exception("subscription_crashed", upstream=feed.upstream.name)
        finally:
            hold.ended = True
            hold.up.set()
            feed.dirty.set()

    def _report_everything(self, feed: _Feed) -> None:
        """Make up for what may have been missed."""
        for kind in ("tools", "prompts", "resources"):
            feed.hear(f"notifications/{kind}/list_changed", {})
        for uri in feed.wanted().uris:
            feed.hear(_UPDATED, {"uri": uri})


def _possible(wanted: Interest, profile: Profile) -> Interest:
    """Return what of ``wanted`` it makes sense to ask the upstream for."""
    offered = {name: flags for name, flags in profile.capabilities.items() if isinstance(flags, dict)}
    modern = profile.era is Era.MODERN

    def listens(kind: str, flag: str) -> bool:
        # A modern server says in its acknowledgement what it honours, whatever flags it shows.
        return kind in offered and (modern or offered[kind].get(flag) is True)

    return Interest(
        tools=wanted.tools and listens("tools", "listChanged"),
        prompts=wanted.prompts and listens("prompts", "listChanged"),
        resources=wanted.resources and listens("resources", "listChanged"),
        uris=wanted.uris if listens("resources", "subscribe") else frozenset(),
    )


def _is_wanted(interest: Interest, method: str) -> bool:
    return {
        "notifications/tools/list_changed": interest.tools,
        "notifications/prompts/list_changed": interest.prompts,
        "notifications/resources/list_changed": interest.resources,
    }.get(method, False)


def _without_subscription_id(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``params`` without the name of the gateway's own subscription."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or SUBSCRIPTION_ID_META_KEY not in meta:
        return params
    return {**params, "_meta": {name: value for name, value in meta.items() if name != SUBSCRIPTION_ID_META_KEY}}
