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
from agentapi.upstreams.lists import LIST_METHODS, ListTooLargeError, is_fit, read_pages
from agentapi.upstreams.reasons import reason_of
from agentapi.upstreams.session import open_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.upstreams.channel import Channel, OpenChannel
    from agentapi.upstreams.link import Era
    from agentapi.upstreams.session import Link

__all__ = ["ProbeResult", "probe"]

_LISTS = {
    "tools/list": ("tools", "name"),
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resources", "uriTemplate"),
    "prompts/list": ("prompts", "name"),
}
"""The capability that each list belongs to, and the member of an item that identifies it."""
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
    left_out: int = 0
    """Things whose name or definition is not of the protocol, so that clients do not see them."""
    connect_ms: float | None = None
    list_ms: float | None = None
    total_ms: float = 0.0


async def probe(
    open_channel: OpenChannel,
    *,
    timeout_s: float,
    era: Era | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ProbeResult:
    """Connect, list everything once, disconnect.

    Args:
        open_channel: Opens the transport of the upstream under test.
        timeout_s: Bound on the whole test.
        era: The only one in which it may be spoken to.
        clock: Seconds, for the timings.
    """
    start = clock()
    channel: Channel | None = None
    try:
        with anyio.fail_after(timeout_s):
            async with (
                open_channel() as channel,
                open_link(channel, name="under test", timeout_s=timeout_s, era=era) as link,
            ):
                link.profile.require(era)
                connected = clock()
                found, left_out = await _inventory(link, timeout_s)
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
                    left_out=left_out,
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


async def _inventory(link: Link, timeout_s: float) -> tuple[dict[str, tuple[str, ...]], int]:
    """Return the names by kind that clients would be shown, and how many things are left out."""
    offered = link.profile.capabilities
    found: dict[str, tuple[str, ...]] = {}
    left_out = 0
    for method, (capability, name) in _LISTS.items():
        if offered.get(capability) is not None:
            found[LIST_METHODS[method]], unfit = await _names(link, method, name, timeout_s)
            left_out += unfit
    return found, left_out


async def _names(link: Link, method: str, member: str, timeout_s: float) -> tuple[tuple[str, ...], int]:
    async def request(params: dict[str, Any]) -> dict[str, Any]:
        return await link.request(method, params, caller=_NOBODY, timeout_s=timeout_s)

    names: list[str] = []
    left_out = 0
    try:
        async for page in read_pages(method, request):
            shown = [item[member] for item in page.items if isinstance(item, dict) and is_fit(method, item.get(member))]
            names.extend(shown)
            left_out += len(page.items) - len(shown) + page.unreadable
    except ListTooLargeError as error:
        raise UpstreamError(f"it lists {error.message}, so that none of them would be shown") from None
    except ValueError:
        raise UpstreamError(f"its answer to {method} is no list") from None
    except MCPError as error:
        # A server may offer a capability and implement part of it; what it lacks it does not have.
        if error.code != METHOD_NOT_FOUND:
            raise
    return tuple(names), left_out


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + "."
