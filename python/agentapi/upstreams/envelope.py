"""What a request carries so that a server of the modern era knows its version, its client and where it goes.

Source: specification 2026-07-28, "Base protocol", and its Streamable HTTP headers; as in ``mcp.client.session``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

import agentapi

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GATEWAY_INFO", "HeaderMap", "MirroredParams", "header_map", "modern_headers", "modern_meta"]

GATEWAY_INFO: Final[dict[str, Any]] = {"name": "agentapi", "version": agentapi.__version__}

HeaderMap = dict[tuple[str, ...], str]
"""Which arguments of a tool are mirrored into headers: path in the arguments to the end of the header's name."""

_MAX_TOOLS: Final = 10_000


def modern_meta(revision: str, capabilities: Mapping[str, Any], client_info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of ``_meta`` that every modern request carries."""
    return {
        PROTOCOL_VERSION_META_KEY: revision,
        CLIENT_INFO_META_KEY: dict(client_info) or GATEWAY_INFO,
        CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
    }


def modern_headers(revision: str, method: str, params: Mapping[str, Any], mirrored: HeaderMap) -> dict[str, str]:
    """Return the headers that repeat what the body of a modern request says."""
    headers = {MCP_PROTOCOL_VERSION_HEADER: revision, MCP_METHOD_HEADER: method}
    member = NAME_BEARING_METHODS.get(method)
    if member is not None and isinstance(name := params.get(member), str):
        headers[MCP_NAME_HEADER] = encode_header_value(name)
    if mirrored:
        headers.update(mcp_param_headers(mirrored, params.get("arguments") or {}))
    return headers


def header_map(definition: Mapping[str, Any]) -> HeaderMap:
    """Return what of a tool's arguments is mirrored; nothing where its schema is wrong."""
    schema = definition.get("inputSchema")
    if not isinstance(schema, dict) or find_invalid_x_mcp_header(schema) is not None:
        return {}
    return x_mcp_header_map(schema)


class MirroredParams:
    """The header maps of one upstream's tools, as far as lists have shown them."""

    def __init__(self) -> None:
        self._maps: dict[str, HeaderMap] = {}

    def learn(self, listing: Mapping[str, Any]) -> None:
        """Take in one page of ``tools/list``."""
        tools = listing.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            name = tool.get("name") if isinstance(tool, dict) else None
            if not isinstance(name, str):
                continue
            found = header_map(tool)
            if found and len(self._maps) < _MAX_TOOLS:
                self._maps[name] = found
            else:
                self._maps.pop(name, None)

    def of(self, name: object) -> HeaderMap:
        """Return the map of the tool called ``name``."""
        return self._maps.get(name, {}) if isinstance(name, str) else {}
