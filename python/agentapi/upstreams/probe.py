"""The connection test: really connect, and say what is there or why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from mcp import Client, MCPError
from mcp_types import METHOD_NOT_FOUND

from agentapi.errors import UpstreamTimeoutError
from agentapi.upstreams.connections import UpstreamLink
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.upstreams.connections import OpenTransport

__all__ = ["ProbeResult", "probe"]

_PAGE_LIMIT = 100


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
    open_transport: OpenTransport, *, timeout_s: float, clock: Callable[[], float] = time.perf_counter
) -> ProbeResult:
    """Connect, list everything once, disconnect.

    Args:
        open_transport: Opens the transport of the upstream under test.
        timeout_s: Bound on the whole test.
        clock: Seconds, for the timings.
    """
    start = clock()
    link = UpstreamLink(None)
    try:
        with anyio.fail_after(timeout_s):
            async with open_transport() as link, Client(link.transport, mode="auto", cache=None) as client:
                connected = clock()
                found = await _inventory(client)
                listed = clock()
                info = client.server_info
                result = ProbeResult(
                    ok=True,
                    protocol_version=client.protocol_version,
                    server=info.model_dump(mode="json", by_alias=True, exclude_none=True) if info else None,
                    instructions=client.instructions,
                    connect_ms=_ms(connected - start),
                    list_ms=_ms(listed - connected),
                    total_ms=_ms(listed - start),
                    tools=found.get("tools", ()),
                    resources=found.get("resources", ()),
                    resource_templates=found.get("resource_templates", ()),
                    prompts=found.get("prompts", ()),
                )
    except TimeoutError:
        result = ProbeResult(
            ok=False,
            reason=UpstreamTimeoutError(f"No complete answer within {timeout_s:g} s.").message,
            total_ms=_ms(clock() - start),
        )
    except Exception as error:  # noqa: BLE001 - the reason in words is what this function is for
        reason = reason_of(error, link.last_status())
        result = ProbeResult(ok=False, reason=_sentence(reason), total_ms=_ms(clock() - start))
    return result


async def _inventory(client: Client) -> dict[str, tuple[str, ...]]:
    offered = client.server_capabilities
    found: dict[str, tuple[str, ...]] = {}
    if offered.tools is not None:
        found["tools"] = await _names(client.list_tools, "tools", "name")
    if offered.resources is not None:
        found["resources"] = await _names(client.list_resources, "resources", "uri")
        found["resource_templates"] = await _names(client.list_resource_templates, "resource_templates", "uri_template")
    if offered.prompts is not None:
        found["prompts"] = await _names(client.list_prompts, "prompts", "name")
    return found


async def _names(list_page: Callable[..., Awaitable[Any]], items: str, name: str) -> tuple[str, ...]:
    names: list[str] = []
    cursor: str | None = None
    try:
        for _ in range(_PAGE_LIMIT):
            page = await list_page(cursor=cursor)
            names.extend(str(getattr(item, name)) for item in getattr(page, items))
            cursor = page.next_cursor
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
