"""Keeping an upstream's changes flowing, by ``subscriptions/listen`` or, in the legacy era, within a session."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp import MCPError

from agentapi.errors import UpstreamError, UpstreamTimeoutError
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.session import Link

__all__ = ["Filter", "listen_on", "whole_of"]

_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_UPDATED: Final = "notifications/resources/updated"
_ANSWER_S: Final = 10.0
_DELIMITERS: Final = ":/?#[]@"

_names = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which changes are wanted."""

    tools: bool = False
    prompts: bool = False
    resources: bool = False
    uris: frozenset[str] = frozenset()

    def as_params(self) -> dict[str, Any]:
        """Return what ``subscriptions/listen`` calls it."""
        flags = {"tools": self.tools, "prompts": self.prompts, "resources": self.resources}
        params: dict[str, Any] = {f"{name}ListChanged": True for name, wanted in flags.items() if wanted}
        if self.uris:
            params["resourceSubscriptions"] = sorted(self.uris)
        return params

    def wants(self, method: str, params: Mapping[str, Any]) -> bool:
        """Return whether a notification is one of the changes."""
        if method == _UPDATED:
            return whole_of(params.get("uri"), self.uris) is not None
        kind = method.removeprefix("notifications/").removesuffix("/list_changed")
        return {"tools": self.tools, "prompts": self.prompts, "resources": self.resources}.get(kind, False)


def whole_of(uri: object, uris: frozenset[str]) -> str | None:
    """Return the resource in ``uris`` that ``uri`` is, or is a part of; None if there is none.

    A server may name a sub-resource of what was subscribed to (specification, ``ResourceUpdatedNotification``), which
    does not say what one is. Here its address goes on behind a delimiter of RFC 3986, section 2.2: ``test://a/b`` and
    ``test://a#b`` are parts of ``test://a``, and ``test://ab`` is none.
    """
    if not isinstance(uri, str):
        return None
    if uri in uris:
        return uri
    return next((each for each in uris if uri.startswith(each) and _has_border(uri, len(each))), None)


def _has_border(uri: str, at: int) -> bool:
    return any(character in _DELIMITERS for character in uri[max(0, at - 1) : at + 1])


@contextlib.asynccontextmanager
async def listen_on(
    link: Link, wanted: Filter, caller: Caller, on_event: Callable[[str, dict[str, Any]], None]
) -> AsyncIterator[None]:
    """Give ``on_event`` the wanted changes that arrive on ``link``, for the length of the context.

    Raises:
        UpstreamError: The server offers none of them, or stopped sending them, also in the midst of the context.
        MCPError: It refused.
    """
    stopped: list[Exception] = []
    with anyio.CancelScope() as scope:

        def stop(error: Exception) -> None:
            stopped.append(error)
            scope.cancel()

        era = _modern if link.profile.era is Era.MODERN else _legacy
        async with era(link, wanted, caller, on_event, stop):
            yield
    if scope.cancelled_caught:
        raise stopped[0]


@contextlib.asynccontextmanager
async def _modern(
    link: Link,
    wanted: Filter,
    caller: Caller,
    on_event: Callable[[str, dict[str, Any]], None],
    stop: Callable[[Exception], None],
) -> AsyncIterator[None]:
    # No number, so that it cannot be taken for the id of another request.
    key = f"listen-{next(_names)}"
    acknowledged = anyio.Event()
    honoured: dict[str, Any] = {}
    stream = anyio.CancelScope()

    def ear(method: str, params: dict[str, Any]) -> None:
        if method == _ACKNOWLEDGED:
            granted = params.get("notifications")
            honoured.update(granted if isinstance(granted, dict) else {})
            acknowledged.set()
        elif wanted.wants(method, params):
            on_event(method, params)

    async def follow() -> None:
        end: Exception = _closed(link)
        try:
            with stream:
                await link.subscribe(key, wanted.as_params(), caller)
                end = UpstreamError(f"Upstream '{link.name}' ended the subscription.")
        except (MCPError, UpstreamError) as error:
            end = error
        finally:
            stop(end)

    link.inbox.ears[key] = ear
    try:
        link.tasks.start_soon(follow)
        with anyio.move_on_after(_ANSWER_S):
            await acknowledged.wait()
        if not acknowledged.is_set():
            raise UpstreamTimeoutError(f"Upstream '{link.name}' did not acknowledge the subscription.")
        if not any(honoured.values()):
            raise _offers_nothing(link)
        yield
    finally:
        del link.inbox.ears[key]
        stream.cancel()


@contextlib.asynccontextmanager
async def _legacy(
    link: Link,
    wanted: Filter,
    caller: Caller,
    on_event: Callable[[str, dict[str, Any]], None],
    stop: Callable[[Exception], None],
) -> AsyncIterator[None]:
    offered = link.profile.capabilities
    may_subscribe = bool(wanted.uris) and _offers(offered, "resources", "subscribe")
    lists = {"tools": wanted.tools, "prompts": wanted.prompts, "resources": wanted.resources}
    if not may_subscribe and not any(asked and _offers(offered, name, "listChanged") for name, asked in lists.items()):
        raise _offers_nothing(link)

    def ear(method: str, params: dict[str, Any]) -> None:
        if wanted.wants(method, params):
            on_event(method, params)

    key = f"ear-{next(_names)}"
    watching = anyio.CancelScope()

    async def watch() -> None:
        try:
            with watching:
                await link.closed.wait()
        finally:
            stop(_closed(link))

    link.inbox.ears[key] = ear
    subscribed: list[str] = []
    try:
        link.tasks.start_soon(watch)
        if may_subscribe:
            for uri in sorted(wanted.uris):
                await _subscribe(link, caller, uri)
                subscribed.append(uri)
        yield
    finally:
        watching.cancel()
        del link.inbox.ears[key]
        with anyio.move_on_after(_ANSWER_S, shield=True), contextlib.suppress(MCPError, UpstreamError):
            for uri in subscribed:
                await _unsubscribe(link, caller, uri)


async def _subscribe(link: Link, caller: Caller, uri: str) -> None:
    """Subscribe for the first who wants it: a server knows of sessions alone.

    One change at a time, since over HTTP a server may take two requests in either order.
    """
    async with link.subscribing:
        if not link.subscriptions[uri]:
            await link.request("resources/subscribe", {"uri": uri}, caller=caller, timeout_s=_ANSWER_S)
        link.subscriptions[uri] += 1


async def _unsubscribe(link: Link, caller: Caller, uri: str) -> None:
    """Unsubscribe for the last."""
    async with link.subscribing:
        link.subscriptions[uri] -= 1
        if not link.subscriptions[uri]:
            del link.subscriptions[uri]
            await link.request("resources/unsubscribe", {"uri": uri}, caller=caller, timeout_s=_ANSWER_S)


def _offers(capabilities: Mapping[str, Any], name: str, what: str) -> bool:
    offered = capabilities.get(name)
    return isinstance(offered, dict) and offered.get(what) is True


def _closed(link: Link) -> UpstreamError:
    return UpstreamError(f"Upstream '{link.name}' closed the connection.")


def _offers_nothing(link: Link) -> UpstreamError:
    return UpstreamError(f"Upstream '{link.name}' offers no notice of these changes.")
