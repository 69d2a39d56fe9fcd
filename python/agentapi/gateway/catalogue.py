"""The tools of a workspace as one list, fetched from its upstreams in parallel and kept for a while."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from mcp import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header

from agentapi.errors import NotFoundError, UpstreamError, UpstreamTimeoutError
from agentapi.gateway.names import public_name, upstream_of
from agentapi.upstreams.connections import ConnectionKey
from agentapi.upstreams.link import Caller
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentapi.principal import Principal
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.models import Upstream

__all__ = ["Catalogue", "CatalogueTool", "UnknownToolError"]

_log = structlog.get_logger(__name__)

_MAX_PAGES = 100
_MAX_TOOLS = 10_000
_MAX_LIST_BYTES = 2 * 1024 * 1024
_MAX_ECHO = 128
"""How much of a name that came from outside is repeated in an error."""

_MIN_REFETCH_S = 1.0
"""Calls to names that do not exist ask an upstream for its list at most this often."""


class UnknownToolError(NotFoundError):
    """No upstream of the workspace offers a tool of this name to this caller."""

    code = "unknown_tool"


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """One tool: as the client sees it, and where it comes from."""

    name: str
    upstream: Upstream
    upstream_name: str
    definition: dict[str, Any]


@dataclass(slots=True)
class _Entry:
    """What is known of one upstream's tools: a list, or the failure to get one, until ``expires``."""

    fetched: float
    expires: float
    upstream: Upstream
    definitions: tuple[dict[str, Any], ...] = ()
    size: int = 0
    """Bytes of the definitions as JSON; in memory they take some twenty times as much."""
    failure: UpstreamError | None = None
    _named: dict[bool, dict[str, CatalogueTool]] = field(default_factory=dict)

    def named(self, *, bare: bool) -> dict[str, CatalogueTool]:
        """Return the tools by public name, in the upstream's order; of one name listed twice the first counts."""
        tools = self._named.get(bare)
        if tools is None:
            tools = self._named[bare] = {}
            for definition in self.definitions:
                name = public_name(self.upstream.name, definition["name"], bare=bare)
                tool = CatalogueTool(name, self.upstream, definition["name"], {**definition, "name": name})
                tools.setdefault(name, tool)
        return tools


class Catalogue:
    """Tool lists per upstream and caller.

    Args:
        client: Speaks to the upstreams.
        ttl_s: How long a list is served without asking again.
        failure_ttl_s: How long an upstream that failed is left out without asking again.
        list_timeout_s: Bound on one upstream's list.
        bare_names: Leave out the prefix where a workspace has one upstream.
        max_entries: Bound on remembered lists; the least recently used goes first.
        max_bytes: Bound on their size as JSON.
        clock: Monotonic seconds.
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
        max_entries: int = 10_000,
        max_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._failure_ttl_s = failure_ttl_s
        self._list_timeout_s = list_timeout_s
        self._bare_names = bare_names
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[ConnectionKey, _Entry] = OrderedDict()
        self._fetching: dict[ConnectionKey, asyncio.Task[_Entry]] = {}

    async def tools(self, upstreams: Sequence[Upstream], principal: Principal) -> list[CatalogueTool]:
        """Return every tool that ``principal`` sees, ordered by upstream and then as the upstream orders them.

        An upstream that cannot be listed is left out and the reason logged.
        """
        ordered = sorted(upstreams, key=lambda upstream: upstream.name)
        entries = await asyncio.gather(*(self._entry(upstream, principal) for upstream in ordered))
        bare = self._bare(upstreams)
        return [tool for entry in entries for tool in entry.named(bare=bare).values()]

    async def find(self, upstreams: Sequence[Upstream], principal: Principal, name: str) -> CatalogueTool:
        """Return the tool that ``principal`` sees as ``name``, asking only the upstream that it names.

        Raises:
            UnknownToolError: There is none.
            UpstreamError: Its upstream cannot be listed now.
        """
        bare = self._bare(upstreams)
        prefix = upstream_of(name)
        candidates = upstreams if bare else [upstream for upstream in upstreams if upstream.name == prefix]
        for upstream in candidates:
            entry = await self._entry(upstream, principal)
            found = entry.named(bare=bare).get(name)
            if found is None and self._clock() - entry.fetched >= _MIN_REFETCH_S:
                # The upstream may have gained the tool, or come back, since the list was remembered.
                entry = await self._fetch(upstream, principal)
                found = entry.named(bare=bare).get(name)
            if found is not None:
                return found
            if entry.failure is not None:
                raise type(entry.failure)(entry.failure.message)
        raise UnknownToolError(f"Unknown tool: {name[:_MAX_ECHO]}")

    def input_schema(self, upstreams: Sequence[Upstream], principal: Principal, name: str) -> dict[str, Any] | None:
        """Return the input schema of a tool whose list is at hand, without asking anybody."""
        bare = self._bare(upstreams)
        for upstream in upstreams:
            entry = self._entries.get(_key(upstream, principal))
            found = entry.named(bare=bare).get(name) if entry is not None else None
            if found is not None:
                schema: dict[str, Any] = found.definition["inputSchema"]
                return schema
        return None

    def _bare(self, upstreams: Sequence[Upstream]) -> bool:
        return self._bare_names and len(upstreams) == 1

    async def _entry(self, upstream: Upstream, principal: Principal) -> _Entry:
        key = _key(upstream, principal)
        entry = self._entries.get(key)
        if entry is not None and entry.expires > self._clock():
            self._entries.move_to_end(key)
            return entry
        return await self._fetch(upstream, principal)

    async def _fetch(self, upstream: Upstream, principal: Principal) -> _Entry:
        """Fetch one list; callers that come meanwhile wait for the same answer."""
        key = _key(upstream, principal)
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.ensure_future(self._fetch_now(key, upstream, Caller(principal.org_id, principal.user_id)))
            self._fetching[key] = task
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        # One caller that goes away must not take the answer from the others.
        return await asyncio.shield(task)

    async def _fetch_now(self, key: ConnectionKey, upstream: Upstream, caller: Caller) -> _Entry:
        entry = _Entry(self._clock(), 0.0, upstream)
        try:
            async with asyncio.timeout(self._list_timeout_s):
                entry.definitions = await _list_tools(self._client, upstream, caller, self._list_timeout_s)
            entry.size = _size(entry.definitions)
        except UpstreamError as error:
            entry.failure = error
        except TimeoutError:
            entry.failure = UpstreamTimeoutError(
                f"Upstream '{upstream.name}' did not list its tools within {self._list_timeout_s:g} s."
            )
        except ListTooLargeError as error:
            entry.failure = UpstreamError(f"Upstream '{upstream.name}' lists {error}.")
        except (MCPError, ValueError) as error:
            entry.failure = UpstreamError(f"Upstream '{upstream.name}' did not list its tools: {reason_of(error)}.")
        if entry.failure is not None:
            _log.warning(
                "upstream_left_out",
                upstream=upstream.name,
                upstream_id=str(upstream.id),
                reason=entry.failure.message,
            )
        entry.fetched = self._clock()
        entry.expires = entry.fetched + (self._failure_ttl_s if entry.failure is not None else self._ttl_s)
        self._remember(key, entry)
        return entry

    def _remember(self, key: ConnectionKey, entry: _Entry) -> None:
        """Keep ``entry`` in the place of what was known of older versions; the least recently used makes room."""
        replaced = [k for k in self._entries if k.upstream_id == key.upstream_id and k.version < key.version]
        for old in (*replaced, key):
            gone = self._entries.pop(old, None)
            self._size -= gone.size if gone is not None else 0
        self._entries[key] = entry
        self._size += entry.size
        while len(self._entries) > self._max_entries or self._size > self._max_bytes:
            self._size -= self._entries.popitem(last=False)[1].size


def _key(upstream: Upstream, principal: Principal) -> ConnectionKey:
    return ConnectionKey(upstream.org_id, upstream.id, upstream.version, principal.user_id)


class ListTooLargeError(ValueError):
    """A list of tools exceeds what the gateway keeps."""


async def _list_tools(
    client: UpstreamClient, upstream: Upstream, caller: Caller, timeout_s: float
) -> tuple[dict[str, Any], ...]:
    """Return every tool that the upstream lists, as it came.

    Raises:
        MCPError: The upstream answered with an error.
        UpstreamError: It cannot be asked, or its answer is no list.
        ListTooLargeError: Its list exceeds the bounds.
    """
    tools: list[dict[str, Any]] = []
    size = 0
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        params = {"cursor": cursor} if cursor else {}
        page = await client.request(upstream, caller, "tools/list", params, timeout_s=timeout_s, repeatable=True)
        listed = page.get("tools")
        if not isinstance(listed, list):
            raise UpstreamError(f"Upstream '{upstream.name}' did not list its tools: its answer is no list.")
        tools += [tool for tool in listed if _is_tool(tool)]
        size += _size(listed)
        if len(tools) > _MAX_TOOLS or size > _MAX_LIST_BYTES:
            break
        cursor = page.get("nextCursor")
        # Some servers say with an empty cursor that there is no other page.
        if not cursor:
            return tuple(tools)
    bounds = f"{_MAX_TOOLS} tools, {_MAX_PAGES} pages or {_MAX_LIST_BYTES} bytes"
    raise ListTooLargeError(f"more than {bounds}")


def _is_tool(tool: object) -> bool:
    """Return whether a client could make use of it; one whose header annotations are wrong must not be shown."""
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        return False
    schema = tool.get("inputSchema")
    return isinstance(schema, dict) and find_invalid_x_mcp_header(schema) is None


def _size(definitions: Iterable[dict[str, Any]]) -> int:
    return sum(len(json.dumps(definition)) for definition in definitions)
