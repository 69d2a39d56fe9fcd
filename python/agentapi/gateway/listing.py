"""One list of one upstream, fetched page by page within bounds.

What an upstream lists is checked item by item against the protocol's models and kept as it came: one item that no
client could read would otherwise cost the workspace all the others.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import structlog
from mcp import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header
from mcp_types import METHOD_NOT_FOUND, Prompt, Resource, ResourceTemplate, Tool
from pydantic import ValidationError

from agentapi.errors import UpstreamTimeoutError
from agentapi.upstreams.lists import is_fit, read_pages

if TYPE_CHECKING:
    from pydantic import BaseModel

    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["Kind", "Listing", "fetch"]

_log = structlog.get_logger(__name__)

_MAX_LOGGED = 64
"""How much of a name that is not shown is written to the log, in characters."""


class Kind(StrEnum):
    """What can be listed; the value is the member of a result that holds the list."""

    TOOLS = "tools"
    RESOURCES = "resources"
    TEMPLATES = "resourceTemplates"
    PROMPTS = "prompts"

    @property
    def method(self) -> str:
        """The request that lists it."""
        return _METHODS[self]

    @property
    def capability(self) -> str:
        """The capability of a server that has it."""
        return "resources" if self is Kind.TEMPLATES else self.value

    @property
    def member(self) -> str:
        """The member of an item that identifies it."""
        return _MEMBERS.get(self, "name")

    @property
    def change(self) -> str:
        """The notification that says that the list has changed."""
        return f"notifications/{self.capability}/list_changed"


_METHODS: Final[dict[Kind, str]] = {
    Kind.TOOLS: "tools/list",
    Kind.RESOURCES: "resources/list",
    Kind.TEMPLATES: "resources/templates/list",
    Kind.PROMPTS: "prompts/list",
}
_MEMBERS: Final[dict[Kind, str]] = {Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}
_MODELS: Final[dict[Kind, type[BaseModel]]] = {
    Kind.TOOLS: Tool,
    Kind.RESOURCES: Resource,
    Kind.TEMPLATES: ResourceTemplate,
    Kind.PROMPTS: Prompt,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What an upstream listed."""

    definitions: tuple[dict[str, Any], ...] = ()
    size: int = 0
    """Bytes of the definitions as JSON; in memory they take some twenty times as much."""
    ttl_s: float | None = None
    """How long the upstream says that it stays fresh."""


async def fetch(client: UpstreamClient, upstream: Upstream, caller: Caller, kind: Kind, *, timeout_s: float) -> Listing:
    """Return everything of ``kind`` that the upstream lists; nothing, unasked, if it has no such capability.

    Raises:
        UpstreamError: It cannot be reached.
        MCPError: It answered with an error.
        ListTooLargeError: Its list exceeds the bounds.
        ValueError: Its answer is not of the protocol.
    """
    try:
        async with asyncio.timeout(timeout_s):
            profile = await client.profile(upstream, caller)
            if profile.capabilities.get(kind.capability) is None:
                return Listing()
            return await _pages(client, upstream, caller, kind, timeout_s)
    except TimeoutError:
        raise UpstreamTimeoutError(f"Upstream '{upstream.name}' did not answer within {timeout_s:g} s.") from None
    except MCPError as error:
        if kind is Kind.TEMPLATES and error.code == METHOD_NOT_FOUND:
            # Many a server has resources and no templates, and no capability tells the two apart.
            return Listing()
        raise


async def _pages(client: UpstreamClient, upstream: Upstream, caller: Caller, kind: Kind, timeout_s: float) -> Listing:
    async def request(params: dict[str, Any]) -> dict[str, Any]:
        return await client.request(upstream, caller, kind.method, params, timeout_s=timeout_s, repeatable=True)

    definitions: list[dict[str, Any]] = []
    size = unreadable = 0
    unfit: list[str] = []
    ttl_s: float | None = None
    async for page in read_pages(kind.method, request):
        for item in page.items:
            if not _is_readable(kind, item):
                unreadable += 1
            elif not is_fit(kind.method, name := item[kind.member]):
                unfit.append(name)
            else:
                definitions.append(item)
        size += page.size
        unreadable += page.unreadable
        ttl_s = _shortest(ttl_s, page.ttl_ms)
    if unreadable or unfit:
        _log.warning(
            "items_left_out",
            upstream=upstream.name,
            kind=kind.value,
            unreadable=unreadable,
            unfit_names=len(unfit),
            first_unfit=ascii(unfit[0][:_MAX_LOGGED]) if unfit else None,
        )
    return Listing(tuple(definitions), size, ttl_s)


def _is_readable(kind: Kind, item: Any) -> bool:  # noqa: ANN401 - foreign data
    """Return whether a client that knows the protocol's models could read ``item``."""
    try:
        _MODELS[kind].model_validate(item, by_name=False)
        return kind is not Kind.TOOLS or find_invalid_x_mcp_header(item["inputSchema"]) is None
    except (ValidationError, ValueError, TypeError, RecursionError):
        return False


def _shortest(so_far: float | None, ttl_ms: object) -> float | None:
    if not isinstance(ttl_ms, int | float) or isinstance(ttl_ms, bool) or not ttl_ms >= 0:
        return so_far
    return ttl_ms / 1000 if so_far is None else min(so_far, ttl_ms / 1000)
