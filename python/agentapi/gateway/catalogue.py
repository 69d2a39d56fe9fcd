"""What the upstreams of a workspace list, fetched in parallel, kept for a while and renewed behind the client's back.

A list is *fresh* for its time to live and served as it is. After that it is *stale*: still served at once, while one
fetch renews it. It is *gone* when it is older than ``max_stale_s`` or when its upstream said that it has changed:
then whoever asks for the list waits. A call to something that it names does not wait even then, since the upstream
has the last word about that anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from mcp import MCPError

from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError
from agentapi.gateway.background import Background, shutting_down
from agentapi.gateway.items import CatalogueItem, named
from agentapi.gateway.listing import Kind, Listing, fetch
from agentapi.gateway.names import upstream_of
from agentapi.gateway.unknown import unknown_prompt, unknown_tool
from agentapi.upstreams.link import Caller
from agentapi.upstreams.lists import ListTooLargeError
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from agentapi.principal import Principal, UpstreamId, UserId
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.models import Upstream

__all__ = ["Catalogue", "Collection"]

_log = structlog.get_logger(__name__)

_MIN_REFETCH_S = 1.0
"""Calls to names that do not exist ask an upstream for its list at most this often."""

_Key = tuple["UpstreamId", int, "UserId", Kind]
"""Upstream, version of its configuration, user and kind; the id of an upstream is unique across organisations."""


@dataclass(frozen=True, slots=True)
class Collection:
    """The items of a workspace, and for how many seconds all of its lists are fresh."""

    items: list[CatalogueItem]
    fresh_s: float
    unconnected: tuple[Upstream, ...] = ()
    """Upstreams that list nothing before the user has connected to them."""


@dataclass(slots=True)
class _Entry:
    """What is known of one list: the list, or the failure to get it."""

    upstream: Upstream
    kind: Kind
    listing: Listing = field(default_factory=Listing)
    failure: UpstreamError | None = None
    asked: float = 0.0
    """When it was last asked for, with success or without."""
    fetched: float = -math.inf
    expires: float = -math.inf
    gone: float = -math.inf
    """From when on the list is not served any more without asking."""
    _named: dict[bool, dict[str, CatalogueItem]] = field(default_factory=dict)

    def named(self, *, bare: bool) -> dict[str, CatalogueItem]:
        items = self._named.get(bare)
        if items is None:
            items = self._named[bare] = named(self.upstream, self.kind, self.listing.definitions, bare=bare)
        return items


@dataclass(slots=True, eq=False)
class _Fetch:
    """A fetch under way; once the list has changed meanwhile, what it brings is not kept."""

    task: asyncio.Task[_Entry]
    outdated: bool = False


class Catalogue:
    """Lists per upstream, user and kind; ``run`` owns the fetches.

    Args:
        client: Speaks to the upstreams.
        ttl_s: How long a list is fresh; an upstream's own ``ttlMs`` may only shorten it.
        min_ttl_s: The least to which it may.
        max_stale_s: How old a list may be that is served while it is renewed, or while its upstream fails.
        failure_ttl_s: How long an upstream that failed is not asked again.
        list_timeout_s: Bound on one list.
        bare_names: Leave out the prefix where a workspace has one upstream.
        clock: Monotonic seconds.
        max_entries: Bound on remembered lists; the least recently used goes first.
        max_bytes: Bound on their size as JSON.
    """

    def __init__(
        self,
        *,
        client: UpstreamClient,
        ttl_s: float,
        failure_ttl_s: float,
        list_timeout_s: float,
        bare_names: bool,
        clock: Callable[[], float],
        min_ttl_s: float = 0.0,
        max_stale_s: float = 300.0,
        max_entries: int = 10_000,
        max_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._client = client
        self.ttl_s = ttl_s
        self._min_ttl_s = min(min_ttl_s, ttl_s)
        self._max_stale_s = max_stale_s if ttl_s else 0.0
        self._failure_ttl_s = failure_ttl_s
        self._list_timeout_s = list_timeout_s
        self._bare_names = bare_names
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._keys: defaultdict[UpstreamId, set[_Key]] = defaultdict(set)
        self._fetching: dict[_Key, _Fetch] = {}
        self._background = Background()

    def run(self) -> AbstractAsyncContextManager[None]:
        """Own the fetches for the length of the context; leaving it ends them."""
        return self._background.run()

    def is_bare(self, upstreams: Sequence[Upstream]) -> bool:
        """Return whether names and URIs of a workspace with these upstreams carry no prefix."""
        return self._bare_names and len(upstreams) == 1

    async def collect(self, upstreams: Sequence[Upstream], principal: Principal, kind: Kind) -> Collection:
        """Return everything of ``kind`` that ``principal`` sees, by upstream and then as the upstream orders it.

        An upstream that cannot be listed is left out and the reason logged.
        """
        ordered = sorted(upstreams, key=lambda upstream: upstream.name)
        entries = [self._at_hand(upstream, principal, kind) for upstream in ordered]
        if None in entries:
            waiting = zip(ordered, entries, strict=True)
            entries = list(
                await asyncio.gather(*(self._entry(upstream, principal, kind, known) for upstream, known in waiting))
            )
        bare, now = self.is_bare(upstreams), self._clock()
        known = [entry for entry in entries if entry is not None]
        items = [item for entry in known for item in entry.named(bare=bare).values()]
        fresh_s = max(0.0, min((entry.expires - now for entry in known), default=self.ttl_s))
        unconnected = tuple(e.upstream for e in known if isinstance(e.failure, UpstreamNeedsConnectionError))
        return Collection(items, fresh_s, unconnected)

    def find_at_hand(
        self, upstreams: Sequence[Upstream], principal: Principal, kind: Kind, name: str
    ) -> CatalogueItem | None:
        """Return what ``principal`` sees as ``name`` if its list is at hand, without asking anybody."""
        bare = self.is_bare(upstreams)
        prefix = None if bare else name.partition("__")[0]
        for upstream in upstreams:
            if bare or upstream.name == prefix:
                key = (upstream.id, upstream.version, principal.user_id, kind)
                entry = self._entries.get(key)
                if entry is None:
                    return None
                found = entry.named(bare=bare).get(name)
                if found is None:
                    return None
                now = self._clock()
                if now >= entry.expires:
                    if now >= entry.fetched + max(self._max_stale_s, self.ttl_s):
                        return None
                    self._renew(key, upstream, principal)
                self._entries.move_to_end(key)
                return found
        return None

    async def find(self, upstreams: Sequence[Upstream], principal: Principal, kind: Kind, name: str) -> CatalogueItem:
        """Return what ``principal`` sees as ``name``, asking only the upstream that it names.

        Raises:
            UnknownToolError: There is no such tool.
            UnknownPromptError: There is no such prompt.
            UpstreamError: Its upstream cannot be listed now.
        """
        found = self.find_at_hand(upstreams, principal, kind, name)
        if found is not None:
            return found
        bare = self.is_bare(upstreams)
        prefix = upstream_of(name)
        for upstream in upstreams if bare else [upstream for upstream in upstreams if upstream.name == prefix]:
            entry = await self._entry(upstream, principal, kind, self._at_hand(upstream, principal, kind))
            found = entry.named(bare=bare).get(name)
            if found is None and self._clock() - entry.asked >= _MIN_REFETCH_S:
                # The upstream may have gained it, or come back, since the list was remembered.
                entry = await self._fetch(upstream, principal, kind)
                found = entry.named(bare=bare).get(name)
            if found is not None:
                return found
            if entry.failure is not None:
                raise entry.failure.with_traceback(None)
        if kind is Kind.PROMPTS:
            raise unknown_prompt(name)
        raise unknown_tool(name)

    def changed(self, upstream_id: UpstreamId, method: str) -> None:
        """Take note of a notification of an upstream, heard by whoever: a list that it says has changed is gone."""
        for key in self._keys.get(upstream_id, ()):
            if key[3].change == method:
                self._entries[key].expires = self._entries[key].gone = -math.inf
        self._outdate(lambda key: key[0] == upstream_id and key[3].change == method)

    def doubt(self) -> None:
        """Take every list for stale: some may have changed without a word."""
        for entry in self._entries.values():
            entry.expires = -math.inf

    def forget(self, upstream_id: UpstreamId, user_id: UserId) -> bool:
        """Ask an upstream anew what it lists to a user, who may be somebody else to it by now.

        Returns:
            Whether something could not be listed before for want of a connection.
        """
        keys = [key for key in self._keys.get(upstream_id, ()) if key[2] == user_id]
        lacked = any(isinstance(self._entries[key].failure, UpstreamNeedsConnectionError) for key in keys)
        for key in keys:
            self._forget(key)
        self._outdate(lambda key: key[0] == upstream_id and key[2] == user_id)
        return lacked

    def _at_hand(self, upstream: Upstream, principal: Principal, kind: Kind) -> _Entry | None:
        """Return what may be served at once; what is stale is renewed meanwhile."""
        key = (upstream.id, upstream.version, principal.user_id, kind)
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.expires:
            if now >= entry.gone:
                return None
            self._renew(key, upstream, principal)
        self._entries.move_to_end(key)
        return entry

    async def _entry(self, upstream: Upstream, principal: Principal, kind: Kind, known: _Entry | None) -> _Entry:
        return known if known is not None else await self._fetch(upstream, principal, kind)

    def _outdate(self, changed: Callable[[_Key], bool]) -> None:
        """Keep from whoever asks from now on what may have been answered before a change."""
        for key, running in list(self._fetching.items()):
            if changed(key):
                running.outdated = True
                del self._fetching[key]

    def _renew(self, key: _Key, upstream: Upstream, principal: Principal) -> None:
        with contextlib.suppress(UpstreamError):
            self._start(key, upstream, principal)

    async def _fetch(self, upstream: Upstream, principal: Principal, kind: Kind) -> _Entry:
        """Fetch one list; callers that come meanwhile wait for the same answer."""
        running = self._start((upstream.id, upstream.version, principal.user_id, kind), upstream, principal)
        try:
            # One caller that goes away must not take the answer from the others.
            return await asyncio.shield(running.task)
        except asyncio.CancelledError:
            if running.task.cancelled():
                raise shutting_down() from None
            raise

    def _start(self, key: _Key, upstream: Upstream, principal: Principal) -> _Fetch:
        running = self._fetching.get(key)
        if running is not None:
            return running
        caller = Caller(principal.org_id, principal.user_id)
        running = _Fetch(self._background.start(self._fetch_now(key, upstream, caller)))
        self._fetching[key] = running

        def finished(task: asyncio.Task[_Entry]) -> None:
            if self._fetching.get(key) is running:
                del self._fetching[key]
            if not running.outdated and not task.cancelled():
                self._remember(key, task.result())

        running.task.add_done_callback(finished)
        return running

    async def _fetch_now(self, key: _Key, upstream: Upstream, caller: Caller) -> _Entry:
        """Return a new entry; never raises, for it shares its task group with all the others."""
        kind = key[3]
        entry = _Entry(upstream, kind)
        try:
            entry.listing = await fetch(self._client, upstream, caller, kind, timeout_s=self._list_timeout_s)
        except ListTooLargeError as error:
            entry.failure = UpstreamError(f"Upstream '{upstream.name}' lists {error.message}.")
        except UpstreamError as error:
            entry.failure = error
        except (MCPError, ValueError) as error:
            reason = reason_of(error)
            entry.failure = UpstreamError(f"Upstream '{upstream.name}' did not list its {kind.capability}: {reason}.")
        except Exception:  # noqa: BLE001 - what nobody foresaw must not end the others; the log has it
            _log.exception("list_crashed", upstream=upstream.name)
            entry.failure = UpstreamError(f"Upstream '{upstream.name}' could not be listed.")
        entry.asked = self._clock()
        if entry.failure is None:
            given = entry.listing.ttl_s
            ttl_s = self.ttl_s if given is None else min(max(given, self._min_ttl_s), self.ttl_s)
            entry.fetched = entry.asked
            entry.expires = entry.asked + ttl_s
            entry.gone = entry.asked + max(self._max_stale_s, ttl_s)
            return entry
        # That a user has not connected is nothing for an operator to look into.
        level = logging.INFO if isinstance(entry.failure, UpstreamNeedsConnectionError) else logging.WARNING
        reason = entry.failure.message
        _log.log(level, "upstream_left_out", upstream=upstream.name, upstream_id=str(upstream.id), reason=reason)
        entry.expires = entry.gone = entry.asked + self._failure_ttl_s
        return self._fallback(self._entries.get(key), entry)

    def _fallback(self, kept: _Entry | None, failed: _Entry) -> _Entry:
        """Return what is served after a failure: the last list for as long as it may be, unless access was lost."""
        if (
            kept is None
            or kept.failure is not None
            or isinstance(failed.failure, UpstreamNeedsConnectionError)
            or failed.asked >= kept.fetched + self._max_stale_s
        ):
            return failed
        kept.asked = failed.asked
        kept.gone = kept.fetched + self._max_stale_s
        kept.expires = min(failed.expires, kept.gone)
        return kept

    def _remember(self, key: _Key, entry: _Entry) -> None:
        """Keep ``entry`` in the place of what was known of older versions; the least recently used makes room."""
        for old in [k for k in self._keys[key[0]] if k[1] < key[1]]:
            self._forget(old)
        self._forget(key)
        self._entries[key] = entry
        self._keys[key[0]].add(key)
        self._size += entry.listing.size
        while len(self._entries) > self._max_entries or self._size > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._size -= entry.listing.size
        self._keys[key[0]].discard(key)
        if not self._keys[key[0]]:
            del self._keys[key[0]]
