"""The official SDK's client against any target, and what of two answers must be equal."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from support.plain import PLAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mcp.types import Tool

__all__ = [
    "Mode",
    "canonical",
    "list_tools",
    "mcp_client",
    "outcome",
    "sse_mcp_client",
    "stdio_mcp_client",
    "tool_facts",
]

Mode = Literal["legacy", "2026-07-28", "auto"]
_READ_TIMEOUT_S = 30.0
SERVER_INFO = "io.modelcontextprotocol/serverInfo"


@asynccontextmanager
async def mcp_client(url: str, token: str | None, mode: Mode, **options: Any) -> AsyncIterator[Client]:
    """Connect the SDK's client over Streamable HTTP, with a bearer token if there is one.

    ``options`` are the SDK's client's own: what it answers and what it keeps.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=_READ_TIMEOUT_S, **PLAIN) as http:
        transport = streamable_http_client(url, http_client=http, max_sse_event_size=None)
        async with Client(transport, mode=mode, read_timeout_seconds=_READ_TIMEOUT_S, **options) as client:
            yield client


@asynccontextmanager
async def sse_mcp_client(url: str, **options: Any) -> AsyncIterator[Client]:
    """Connect the SDK's client over the HTTP+SSE transport of 2024-11-05, which knows only the handshake."""
    transport = sse_client(url)
    async with Client(transport, mode="legacy", read_timeout_seconds=_READ_TIMEOUT_S, **options) as client:
        yield client


@asynccontextmanager
async def stdio_mcp_client(
    command: Sequence[str], mode: Mode, env: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Client]:
    """Start ``command`` and connect the SDK's client to its pipes."""
    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=env and dict(env))
    with open(os.devnull, "w", encoding="utf-8") as silence:  # noqa: ASYNC230, PTH123 - no file is read
        async with Client(
            stdio_client(parameters, errlog=silence), mode=mode, read_timeout_seconds=_READ_TIMEOUT_S, **options
        ) as client:
            yield client


async def list_tools(client: Client) -> list[Tool]:
    """Return all pages of the list, past the client's cache."""
    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools


def canonical(value: object) -> str:
    """Return JSON text in which 1 and 1.0 differ and the order of members does not matter."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def tool_facts(tool: Tool, *, era: Mode) -> dict[str, Any]:
    """Return all fields of ``tool`` but its name.

    ``execution`` exists in 2025-11-25 alone (the 2026-07-28 schema removed it), so a listing in the modern
    era cannot carry what a legacy upstream said there.
    """
    excluded = {"name", "execution"} if era != "legacy" else {"name"}
    return tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=excluded)


async def outcome(client: Client, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a tool and return its result or its protocol error as plain data.

    Of ``_meta`` the server's self-introduction is left out: it names whoever answered, which is the gateway.
    ``resultType`` stays: the client fills it in for the handshake era.
    """
    try:
        result = await client.call_tool(name, dict(arguments))
    except MCPError as error:
        return {"error": error.error.model_dump(mode="json", by_alias=True, exclude_none=True)}
    plain = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    meta = {key: value for key, value in plain.pop("_meta", {}).items() if key != SERVER_INFO}
    return {**plain, "_meta": meta} if meta else plain
