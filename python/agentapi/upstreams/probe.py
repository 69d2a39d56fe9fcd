"""The connection test: really connect, and say what is there or why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND

from agentapi.errors import UpstreamError, UpstreamTimeoutError
from agentapi.principal import OrgId, UserId
from agentapi.upstreams.link import Caller
from agentapi.upstreams.reasons import reason_of
from agentapi.upstreams.session import open_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.upstreams.channel import Channel, OpenChannel
    from agentapi.upstreams.session import Link

__all__ = ["ProbeResult", "probe"]

_PAGE_LIMIT = 100
_LISTS = (
    ("tools", "tools/list", "tools", "name"),
    ("resources", "resources/list", "resources", "uri"),
    ("resources", "resources/templates/list", "resourceTemplates", "uriTemplate"),
    ("prompts", "prompts/list", "prompts", "name"),
)
_NOBODY = Caller(OrgId(UUID(int=0)), UserId(UUID(int=0)))
"""A connection test asks on nobody's behalf."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a connection test found; times in milliseconds."""

    ok: bool
    reason: str | None = None
    protocol_version: str | None = None
    server: dict[str, Any] | None = None
    instructions: str | None = None
    tools: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_templates: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    connect_ms: float | None = None
    list_ms: float | None = None
    total_ms: float = 0.0


async def probe(
    open_channel: OpenChannel, *, timeout_s: float, clock: Callable[[], float] = time.perf_counter
) -> ProbeResult:
    """Connect, list everything once, disconnect.

    Args:
        open_channel: Opens the transport of the upstream under test.
        timeout_s: Bound on the whole test.
        clock: Seconds, for the timings.
    """
    start = clock()
    channel: Channel | None = None
    try:
        with anyio.fail_after(timeout_s):
            async with (
                open_channel() as channel,
                open_link(channel, name="under test", timeout_s=timeout_s) as link,
            ):
                connected = clock()
                found = await _inventory(link, timeout_s)
                listed = clock()
                result = ProbeResult(
                    ok=True,
                    protocol_version=link.profile.revision,
                    server=link.profile.server_info or None,
                    instructions=link.profile.instructions,
                    connect_ms=_ms(connected - start),
                    list_ms=_ms(listed - connected),
                    total_ms=_ms(listed - start),
                    tools=found.get("tools", ()),
                    resources=found.get("resources", ()),
                    resource_templates=found.get("resourceTemplates", ()),
                    prompts=found.get("prompts", ()),
                )
    except TimeoutError:
        result = ProbeResult(
            ok=False,
            reason=UpstreamTimeoutError(
                f"It did not answer in time: no complete answer within {timeout_s:g} s."
            ).message,
            total_ms=_ms(clock() - start),
        )
    except Exception as error:  # noqa: BLE001 - the reason in words is what this function is for
        reason = reason_of(error)
        if channel is not None:
            reason = channel.ending() or reason_of(error, channel.last_status())
        result = ProbeResult(ok=False, reason=_sentence(reason), total_ms=_ms(clock() - start))
    return result


async def _inventory(link: Link, timeout_s: float) -> dict[str, tuple[str, ...]]:
    offered = link.profile.capabilities
    found: dict[str, tuple[str, ...]] = {}
    for capability, method, items, name in _LISTS:
        if offered.get(capability) is not None:
            found[items] = await _names(link, method, items, name, timeout_s)
    return found


async def _names(link: Link, method: str, items: str, name: str, timeout_s: float) -> tuple[str, ...]:
    names: list[str] = []
    cursor: str | None = None
    try:
        for _ in range(_PAGE_LIMIT):
            params = {"cursor": cursor} if cursor else {}
            page = await link.request(method, params, caller=_NOBODY, timeout_s=timeout_s)
            listed = page.get(items)
            if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
                raise UpstreamError(f"its answer to {method} is no list")
            names.extend(str(item.get(name)) for item in listed)
            cursor = page.get("nextCursor")
            if not cursor:
                break
    except MCPError as error:
        # A server may offer a capability and implement part of it; what it lacks it does not have.
        if error.code != METHOD_NOT_FOUND:
            raise
    return tuple(names)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + "."
