"""``/mcp/{org}/{workspace}``: one way through, step by step, to the protocol engine.

authentication -> tenancy -> scopes and role -> protocol. Whatever a caller may not know of reads like what does not
exist: another organisation's workspace and none at all give the same answer, found without asking the database.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from mcp_types import HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, ErrorData
from starlette.responses import JSONResponse

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.errors import (
    AgentAPIError,
    ForbiddenError,
    InsufficientScopeError,
    MethodNotAllowedError,
    NotFoundError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from agentapi.gateway.server import CallContext, bind
from agentapi.identity.authentication import authenticate
from agentapi.problems import bearer_challenge, rpc_error_response, rpc_response
from agentapi.request_body import ClientGoneError, read_body, replay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.tenancy.admission import Admission
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["McpEndpoint", "ProtectedResource"]

_log = structlog.get_logger(__name__)

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_NO_WORKSPACE = "There is no such workspace."
_ENVELOPE_MESSAGES = {
    PARSE_ERROR: "The request body is not strict JSON in UTF-8.",
    INVALID_REQUEST: "The request body is not a single JSON-RPC 2.0 message.",
    INVALID_PARAMS: "The params of the request, or their _meta, are not an object.",
}


class ProtectedResource:
    """The metadata of each MCP endpoint as an OAuth protected resource (RFC 9728).

    It is the same for every well-formed name, so that it tells nobody which workspaces exist.
    """

    def __init__(self, *, public_url: str, issuers: tuple[str, ...], scopes: tuple[str, ...]) -> None:
        self._public_url = public_url.rstrip("/")
        # An issuer that is no URL, like that of `agentapi dev`, has no authorization server to discover.
        self._issuers = tuple(issuer for issuer in issuers if issuer.startswith(("https://", "http://")))
        self.scopes = scopes

    def resource(self, org: str, workspace: str) -> str:
        """Return the resource identifier: the canonical URL of the endpoint (RFC 8707)."""
        return f"{self._public_url}/mcp/{org}/{workspace}"

    def metadata_url(self, org: str, workspace: str) -> str:
        """Return the path-inserted address of the metadata (RFC 9728, section 3.1)."""
        return f"{self._public_url}/.well-known/oauth-protected-resource/mcp/{org}/{workspace}"

    async def metadata(self, request: Request) -> Response:
        """Serve the metadata document (RFC 9728, section 3.2)."""
        org, workspace = request.path_params["org"], request.path_params["workspace"]
        if not _is_name(org, workspace):
            return rpc_error_response(NotFoundError(_NO_WORKSPACE))
        document = {
            "resource": self.resource(org, workspace),
            "bearer_methods_supported": ["header"],
            "resource_name": "AgentAPI",
        }
        if self._issuers:
            document["authorization_servers"] = list(self._issuers)
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        # Browser-based clients read it across origins; it holds nothing that is not public.
        return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*", "Cache-Control": "max-age=3600"})


class McpEndpoint:
    """The ASGI application behind ``/mcp/{org}/{workspace}``."""

    def __init__(
        self,
        *,
        resource: ProtectedResource,
        issuers: IssuerDirectory,
        admission: Admission,
        registry: UpstreamRegistry,
        sessions: StreamableHTTPSessionManager,
        public_url: str,
        allowed_origins: Iterable[str],
        max_body_bytes: int,
        max_json_depth: int,
    ) -> None:
        self._resource = resource
        self._issuers = issuers
        self._admission = admission
        self._registry = registry
        self._sessions = sessions
        self._max_body_bytes = max_body_bytes
        self._max_json_depth = max_json_depth
        own = urlsplit(public_url)
        self._origins = frozenset({f"{own.scheme}://{own.netloc}", *allowed_origins})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see the module's description for the order of steps."""
        org, workspace = scope["path_params"]["org"], scope["path_params"]["workspace"]
        try:
            call = await self._admit(scope, org, workspace)
            body = await read_body(scope, receive, max_bytes=self._max_body_bytes)
        except AgentAPIError as error:
            if error.log_context:
                _log.info("request_refused", code=error.code, **error.log_context)
            await self._refusal(error, org, workspace)(scope, receive, send)
            return
        except ClientGoneError:
            return
        refusal = self._envelope_refusal(scope, body)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        bind(scope, call)
        await self._sessions.handle_request(scope, replay(body, receive), send)

    async def _admit(self, scope: Scope, org: str, workspace: str) -> CallContext:
        if not _is_name(org, workspace):
            raise NotFoundError(_NO_WORKSPACE)
        self._check_origin(scope)
        token = await authenticate(self._issuers, scope["headers"], audience=self._resource.resource(org, workspace))
        if token.organization != org:
            raise NotFoundError(_NO_WORKSPACE)
        try:
            principal = await self._admission.admit(token)
        except NotFoundError:
            raise NotFoundError(_NO_WORKSPACE) from None
        view = await self._registry.view(principal, workspace)
        scope.setdefault("state", {}).update(principal=principal, workspace=workspace)
        _check_method_and_type(scope)
        return CallContext(principal, view)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse browsers of foreign origins (specification 2026-07-28, Streamable HTTP, "Security Warning")."""
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if any(origin not in self._origins for origin in origins):
            raise ForbiddenError("This origin may not call the gateway.", origin=origins[0][:200])

    def _envelope_refusal(self, scope: Scope, body: bytes) -> Response | None:
        """Return the answer to what two parsers could read differently, or to a modern message without its header.

        The SDK chooses the protocol era by the header alone; a message whose ``_meta`` names a revision is modern
        (specification 2026-07-28, "Streamable HTTP", header validation).
        """
        try:
            envelope = scan_envelope(body, max_bytes=self._max_body_bytes, max_depth=self._max_json_depth)
        except EnvelopeError as error:
            message = _ENVELOPE_MESSAGES[error.jsonrpc_code]
            data = ErrorData(code=error.jsonrpc_code, message=message, data={"reason": error.reason})
            return rpc_response(data, id_json=error.id_json)
        named = any(name == b"mcp-protocol-version" for name, _ in scope["headers"])
        if envelope.protocol_version is not None and not named:
            data = ErrorData(code=HEADER_MISMATCH, message="The MCP-Protocol-Version header is missing.")
            return rpc_response(data, id_json=envelope.id_json)
        return None

    def _refusal(self, error: AgentAPIError, org: str, workspace: str) -> Response:
        headers: dict[str, str] = {}
        if isinstance(error, UnauthenticatedError | InsufficientScopeError):
            headers["WWW-Authenticate"] = bearer_challenge(
                error,
                resource_metadata=self._resource.metadata_url(org, workspace),
                scopes=self._resource.scopes,
            )
        if isinstance(error, MethodNotAllowedError):
            headers["Allow"] = "POST"
        return rpc_error_response(error, headers=headers)


def _is_name(org: str, workspace: str) -> bool:
    return _SLUG.fullmatch(org) is not None and _SLUG.fullmatch(workspace) is not None


def _check_method_and_type(scope: Scope) -> None:
    """Refuse what no revision allows here: the endpoint keeps no session, so there is nothing to GET or DELETE."""
    if scope["method"] != "POST":
        raise MethodNotAllowedError("The endpoint answers POST only.")
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(types) != 1 or types[0].split(b";", 1)[0].strip().lower() != b"application/json":
        raise UnsupportedMediaTypeError("The request body must be application/json.")
