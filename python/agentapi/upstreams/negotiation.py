"""Finding out which era a server speaks, and introducing ourselves.

``server/discover`` comes first: what answers it is modern. Whatever else a server makes of it sends us to
``initialize``, except words that only a modern server knows and refusals that say nothing about the era, such as a
missing credential. A slow server can take the question for asked after we gave up on it; its refusal of
``initialize`` then names the versions it speaks, and it is asked once more.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from mcp import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, MCP_METHOD_HEADER, MCP_PROTOCOL_VERSION_HEADER
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_REQUEST,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    SERVER_INFO_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

from agentapi.errors import UpstreamError
from agentapi.upstreams.envelope import GATEWAY_INFO, modern_meta
from agentapi.upstreams.failures import HttpRefusalError, ProbeBrokeError, is_closed
from agentapi.upstreams.link import Era, Profile

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Wire", "negotiate", "speaks_modern"]

_SAYS_NOTHING: Final = frozenset({401, 403, 407, 429, 502, 503, 504})
"""HTTP statuses of a server, or of what stands before it, that answer every era alike."""
_MODERN_ONLY: Final = frozenset({HEADER_MISMATCH, MISSING_REQUIRED_CLIENT_CAPABILITY})
_TRIES: Final = 2


def speaks_modern(status: int, error: object) -> bool:
    """Return whether a server that refused a good request of the modern era may still speak it.

    Args:
        status: Of the HTTP answer.
        error: Its JSON-RPC error, if it has one.
    """
    code = error.get("code") if isinstance(error, dict) else None
    if code == UNSUPPORTED_PROTOCOL_VERSION:
        return False
    client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if not client_error or status in _SAYS_NOTHING:
        return True
    # An older server that wants a session says invalid request; what a modern one refuses so was never sent.
    return isinstance(code, int) and code != INVALID_REQUEST and ERROR_CODE_HTTP_STATUS.get(code) == status


class Wire(Protocol):
    """What negotiation needs of a link."""

    async def negotiate_with(
        self, method: str, params: dict[str, Any], *, headers: dict[str, str], timeout_s: float
    ) -> dict[str, Any]:
        """Send a request that is never cancelled.

        Raises:
            MCPError: The server answered with an error.
            HttpRefusalError: It answered with an HTTP status alone.
            TimeoutError: It did not answer.
        """

    async def announce(self, method: str, headers: dict[str, str]) -> None:
        """Send a notification without parameters."""


async def negotiate(  # noqa: C901, PLR0912 - the order of the questions is the point, and it is here in one place
    wire: Wire,
    *,
    era: Era | None,
    capabilities: Mapping[str, Any],
    client_info: Mapping[str, Any],
    probe_s: float,
    handshake_s: float,
) -> Profile:
    """Return what the server says of itself, once it is ready for requests.

    Args:
        wire: An open link.
        era: What is known already; a server of the legacy era is not asked again.
        capabilities: What of a client may be asked for, declared to a legacy server.
        client_info: Name and version of who asks.
        probe_s: How long a server may think about ``server/discover``.
        handshake_s: How long about ``initialize``.

    Raises:
        UpstreamError: It speaks no revision that the gateway does.
        ProbeBrokeError: The connection ended over ``server/discover``; on another, ``initialize`` may be welcome.
        MCPError: It refused the handshake.
    """
    if era is Era.LEGACY:
        return await _initialize(wire, capabilities, client_info, handshake_s)
    revision = LATEST_MODERN_VERSION
    for remaining in reversed(range(_TRIES)):
        try:
            found = await _discover(wire, revision, probe_s)
        except MCPError as error:
            if is_closed(error):
                raise ProbeBrokeError from error
            mutual, legacy = _versions(error)
            if mutual is not None and remaining:
                revision = mutual
                continue
            if error.code in _MODERN_ONLY or (error.code == UNSUPPORTED_PROTOCOL_VERSION and not legacy):
                raise
        except HttpRefusalError as error:
            if error.status in _SAYS_NOTHING:
                raise
        except TimeoutError:
            # A server of the older revisions may ignore what it does not know.
            pass
        else:
            if found is not None:
                return found
        try:
            return await _initialize(wire, capabilities, client_info, handshake_s)
        except MCPError as error:
            mutual, _ = _versions(error)
            if mutual is None or not remaining:
                raise
            revision = mutual
    raise AssertionError(revision)


async def _discover(wire: Wire, revision: str, timeout_s: float) -> Profile | None:
    """Ask ``server/discover``; None if the answer is not that of a modern server."""
    method = "server/discover"
    result = await wire.negotiate_with(
        method,
        {"_meta": modern_meta(revision, {}, GATEWAY_INFO)},
        headers={MCP_PROTOCOL_VERSION_HEADER: revision, MCP_METHOD_HEADER: method},
        timeout_s=timeout_s,
    )
    supported = result.get("supportedVersions")
    mutual = [v for v in MODERN_PROTOCOL_VERSIONS if v in supported] if isinstance(supported, list) else []
    if not mutual or not isinstance(result.get("capabilities"), dict):
        return None
    meta = result.get("_meta")
    return _profile(Era.MODERN, mutual[-1], result, meta.get(SERVER_INFO_META_KEY) if isinstance(meta, dict) else None)


async def _initialize(
    wire: Wire, capabilities: Mapping[str, Any], client_info: Mapping[str, Any], timeout_s: float
) -> Profile:
    result = await wire.negotiate_with(
        "initialize",
        {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(capabilities),
            "clientInfo": dict(client_info) or GATEWAY_INFO,
        },
        headers={},
        timeout_s=timeout_s,
    )
    revision = result.get("protocolVersion")
    if revision not in HANDSHAKE_PROTOCOL_VERSIONS:
        raise UpstreamError("it speaks no revision of the protocol that this gateway speaks")
    await wire.announce("notifications/initialized", {MCP_PROTOCOL_VERSION_HEADER: revision})
    return _profile(Era.LEGACY, revision, result, result.get("serverInfo"))


def _profile(era: Era, revision: str, result: Mapping[str, Any], info: object) -> Profile:
    capabilities, instructions = result.get("capabilities"), result.get("instructions")
    return Profile(
        era,
        revision,
        capabilities if isinstance(capabilities, dict) else {},
        info if isinstance(info, dict) else {},
        instructions if isinstance(instructions, str) else None,
    )


def _versions(error: MCPError) -> tuple[str | None, bool]:
    """Return the modern version of ours that a refusal names, and whether it names, or may speak, legacy ones."""
    supported = error.data.get("supported") if isinstance(error.data, dict) else None
    if error.code != UNSUPPORTED_PROTOCOL_VERSION or not isinstance(supported, list):
        return None, True
    mutual = [version for version in MODERN_PROTOCOL_VERSIONS if version in supported]
    return (mutual[-1] if mutual else None), any(version in HANDSHAKE_PROTOCOL_VERSIONS for version in supported)
