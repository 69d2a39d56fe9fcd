"""What streams without an end have in common: what they report, how many there are, and when they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from agentapi.errors import TooManyStreamsError
from agentapi.gateway.exchange import Interest
from agentapi.upstreams.listening import whole_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentapi.gateway.reply import Reply
    from agentapi.principal import OrgId, Principal, UserId

__all__ = ["MAX_URIS", "Changes", "OpenStreams", "filter_of", "interest_of"]

MAX_URIS: Final = 256
"""Most resources that one client is told of."""
_UPDATED: Final = "notifications/resources/updated"


def interest_of(params: Mapping[str, Any]) -> Interest:
    """Return what a ``subscriptions/listen`` asks for; members of the wrong type ask for nothing."""
    wanted = params.get("notifications")
    if not isinstance(wanted, dict):
        return Interest()
    uris = wanted.get("resourceSubscriptions")
    return Interest(
        tools=wanted.get("toolsListChanged") is True,
        prompts=wanted.get("promptsListChanged") is True,
        resources=wanted.get("resourcesListChanged") is True,
        uris=frozenset(uri for uri in uris if isinstance(uri, str)) if isinstance(uris, list) else frozenset(),
    )


def filter_of(interest: Interest) -> dict[str, Any]:
    """Return ``interest`` as the acknowledgement of a ``subscriptions/listen`` writes it."""
    flags = {
        "toolsListChanged": interest.tools,
        "promptsListChanged": interest.prompts,
        "resourcesListChanged": interest.resources,
    }
    honored: dict[str, Any] = {name: True for name, asked in flags.items() if asked}
    if interest.uris:
        honored["resourceSubscriptions"] = sorted(interest.uris)
    return honored


class Changes:
    """Events that wait to be written, each of them once.

    Every one says that something changed and no more, so that a client that reads slowly misses nothing when the
    same is said once instead of twice, and what waits for it is bounded: of parts of resources there may be any number,
    so when many wait, what is listened to is reported in their place.
    """

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self._waiting: dict[tuple[str, str | None], dict[str, Any]] = {}
        self._filled = asyncio.Event()

    def add(self, method: str, params: dict[str, Any]) -> None:
        """Keep an event that is listened to, unless it waits already."""
        uri = None
        if method == _UPDATED:
            uri, whole = params.get("uri"), whole_of(params.get("uri"), self.interest.uris)
            if whole is None:
                return
            if len(self._waiting) >= MAX_URIS and (method, uri) not in self._waiting:
                uri, params = whole, {**params, "uri": whole}
        elif not self._listened_to(method):
            return
        self._waiting[method, uri] = params
        self._filled.set()

    async def write_to(self, reply: Reply, meta: Mapping[str, Any] | None = None) -> None:
        """Write events as they come, the oldest first and with ``meta`` in their ``_meta``, until cancelled."""
        while True:
            await self._filled.wait()
            taken = list(self._waiting.items())
            self._waiting.clear()
            self._filled.clear()
            for (method, _), params in taken:
                own = params.get("_meta")
                marked = {**(own if isinstance(own, dict) else {}), **meta} if meta else own
                await reply.notify(method, params if marked is own else {**params, "_meta": marked})

    def _listened_to(self, method: str) -> bool:
        return {
            "notifications/tools/list_changed": self.interest.tools,
            "notifications/prompts/list_changed": self.interest.prompts,
            "notifications/resources/list_changed": self.interest.resources,
        }.get(method, False)


class OpenStreams:
    """The streams without an end that this process holds open, bounded for each user and altogether."""

    def __init__(self, *, most: int, most_per_user: int) -> None:
        self._most = most
        self._most_per_user = most_per_user
        self._ends: dict[object, tuple[Principal, Callable[[], None]]] = {}
        self._held: Counter[tuple[OrgId, UserId]] = Counter()
        self._draining = False

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def admit(self, principal: Principal, end: Callable[[], None]) -> Iterator[None]:
        """Count a stream for the length of the context; ``end`` is called when the process is about to stop.

        Raises:
            TooManyStreamsError: There is no room for it.
        """
        holder = principal.org_id, principal.user_id
        if len(self._ends) >= self._most or self._held[holder] >= self._most_per_user:
            raise TooManyStreamsError("Too many event streams are open; close some and try again.")
        token = object()
        self._ends[token] = principal, end
        self._held[holder] += 1
        if self._draining:
            end()
        try:
            yield
        finally:
            del self._ends[token]
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def drain(self) -> None:
        """End every stream, now and from now on: the server waits for them before it stops."""
        self._draining = True
        self.end_where(lambda _: True)

    def end_where(self, holds: Callable[[Principal], bool]) -> None:
        """End the streams of principals for whom that holds; a client that may have another one asks for it."""
        for principal, end in list(self._ends.values()):
            if holds(principal):
                end()
