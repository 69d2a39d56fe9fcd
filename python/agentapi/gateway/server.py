"""The MCP server that clients talk to: the SDK's protocol engine around the catalogue and the upstream connections."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp import MCPError
from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolRequestParams

import agentapi
from agentapi.errors import AgentAPIError, ForbiddenError, MethodNotAllowedError, UpstreamError
from agentapi.gateway.catalogue import UnknownToolError
from agentapi.gateway.rpc import RpcRefusalError
from agentapi.identity.permissions import Permission, require
from agentapi.request_body import replay
from agentapi.upstreams.link import Caller

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp_types import PaginatedRequestParams
    from starlette.types import Receive, Scope, Send

    from agentapi.gateway.call import Call, Incoming
    from agentapi.gateway.catalogue import Catalogue, CatalogueTool
    from agentapi.principal import Principal
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["CallContext", "GatewayServer", "SdkDoor", "bind"]

_SCOPE_KEY = "agentapi.call"
"""Key of the ``CallContext`` in the ASGI scope."""

_COMPLETE = "complete"
_INPUT_REQUIRED = "input_required"
_ENVELOPE_META_PREFIX = "io.modelcontextprotocol/"


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who calls, and what they see of the workspace."""

    principal: Principal
    view: WorkspaceView


_current: ContextVar[CallContext] = ContextVar("agentapi_call")


class GatewayServer:
    """Answers ``tools/list`` and ``tools/call`` for every workspace.

    Args:
        catalogue: The tools of a workspace.
        client: Speaks to the upstreams.
        call_timeout_s: Bound on one tool call.
        list_ttl_s: Freshness that is promised to clients for a list.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        client: UpstreamClient,
        call_timeout_s: float,
        list_ttl_s: float,
    ) -> None:
        self._catalogue = catalogue
        self._client = client
        self._call_timeout_s = call_timeout_s
        # Lists vary by authorization, so no client may share them (specification 2026-07-28, "Caching").
        hint = CacheHint(ttl_ms=int(list_ttl_s * 1000), scope="private")
        self.server: Server[dict[str, Any]] = Server(
            "agentapi",
            version=agentapi.__version__,
            cache_hints={"tools/list": hint},
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list_tools,  # type: ignore[arg-type] # a handler may return the wire form (HandlerResult)
            on_call_tool=self._call_tool,  # type: ignore[arg-type] # likewise
        )

    async def _list_tools(
        self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> dict[str, Any]:
        call = _call_context(ctx)
        if params is not None and params.cursor is not None:
            raise MCPError(code=INVALID_PARAMS, message="Unknown cursor: the list comes in one page.")
        try:
            require(call.principal, Permission.TOOLS_LIST)
            tools = await self._catalogue.tools(call.view.upstreams, call.principal)
        except AgentAPIError as error:
            raise _rpc_error(error) from error
        return {"resultType": _COMPLETE, "tools": [tool.definition for tool in tools]}

    async def _call_tool(self, ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> dict[str, Any]:
        call = _call_context(ctx)
        try:
            require(call.principal, Permission.TOOLS_CALL)
            tool = await self._catalogue.find(call.view.upstreams, call.principal, params.name)
            return await self._forward(ctx, call, tool, params)
        except AgentAPIError as error:
            raise _rpc_error(error) from error

    async def _forward(
        self,
        ctx: ServerRequestContext[Any],
        call: CallContext,
        tool: CatalogueTool,
        params: CallToolRequestParams,
    ) -> dict[str, Any]:
        upstream = tool.upstream
        meta = dict(params.meta or {})
        token = meta.pop("progress_token", None)
        # The envelope is per hop: the client of upstreams writes its own.
        passed: dict[str, Any] = {
            name: value for name, value in meta.items() if not name.startswith(_ENVELOPE_META_PREFIX)
        }
        if token is not None:
            passed["progressToken"] = token
        result = await self._client.request(
            upstream,
            Caller(call.principal.org_id, call.principal.user_id),
            "tools/call",
            {"name": tool.upstream_name, "arguments": params.arguments or {}, "_meta": passed},
            timeout_s=self._call_timeout_s,
            peer=_ProgressAlone(ctx),
            definition=tool.definition,
        )
        if result.get("resultType", _COMPLETE) == _INPUT_REQUIRED:
            # Its state belongs to one caller and one upstream; unsealed it must not pass, nor the answer be lost.
            raise UpstreamError(
                f"Upstream '{upstream.name}' asks the user for input, which this gateway does not relay yet."
            )
        # An upstream of the older revisions does not say so; absent means complete (specification 2026-07-28).
        return {"resultType": _COMPLETE, **result}

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        """Give the SDK the schema against which it checks ``Mcp-Param-*`` headers."""
        call = _current.get()
        return self._catalogue.input_schema(call.view.upstreams, call.principal, name)


class _ProgressAlone:
    """A peer that passes on progress and cannot be asked anything."""

    def __init__(self, ctx: ServerRequestContext[Any]) -> None:
        self._ctx = ctx

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        if method == "notifications/progress":
            await self._ctx.session.report_progress(
                params.get("progress", 0), params.get("total"), params.get("message")
            )

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(method, params)


class SdkDoor:
    """Serves both eras by the SDK's protocol engine."""

    def __init__(self, sessions: StreamableHTTPSessionManager) -> None:
        self._sessions = sessions

    async def serve(self, call: Call, incoming: Incoming | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            MethodNotAllowedError: It is no POST.
            RpcRefusalError: The message is modern and has no header that says so, by which alone the SDK tells.
        """
        if incoming is None:
            raise MethodNotAllowedError("The endpoint answers POST only.")
        named = any(name == b"mcp-protocol-version" for name, _ in scope["headers"])
        if incoming.envelope.protocol_version is not None and not named:
            message = "The MCP-Protocol-Version header is missing."
            raise RpcRefusalError(HEADER_MISMATCH, message, id_json=incoming.id_json)
        bind(scope, CallContext(call.principal, call.view))
        await self._sessions.handle_request(scope, replay(incoming.body, receive), send)


def bind(scope: Scope, call: CallContext) -> None:
    """Attach ``call`` to the request, for the handlers and for the schema hook, which is given a name and no more."""
    scope[_SCOPE_KEY] = call
    _current.set(call)


def _call_context(ctx: ServerRequestContext[Any]) -> CallContext:
    if ctx.request is None:
        raise AssertionError(ctx.method)
    call: CallContext = ctx.request.scope[_SCOPE_KEY]
    return call


def _rpc_error(error: AgentAPIError) -> MCPError:
    code = INTERNAL_ERROR
    if isinstance(error, UnknownToolError):
        code = INVALID_PARAMS
    elif isinstance(error, ForbiddenError):
        code = INVALID_REQUEST
    return MCPError(code=code, message=error.message, data={"code": error.code})
