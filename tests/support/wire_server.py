"""A server on the SDK's low-level engine whose tools, prompts and resources are written as JSON of the wire.

One function serves both eras: where it needs the client's input, a client of the older revisions is asked in
the midst of the call and a modern one is answered ``input_required`` and calls again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    EmptyResult,
    ListRootsRequest,
    ListRootsResult,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mcp.server.context import ServerRequestContext
    from mcp.server.models import InitializationOptions
    from mcp.types import LoggingLevel

    Handler = Callable[["Request"], Awaitable[dict[str, Any]]]

__all__ = ["NO_ARGUMENTS", "InputNeededError", "Request", "WireServer", "text"]

# Members of the modern revision; the engine leaves them out for the older ones.
_COMPLETE: dict[str, Any] = {"resultType": "complete"}
_UNCACHED: dict[str, Any] = {"ttlMs": 0, "cacheScope": "private"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
_CAPABILITY_OF = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


def text(*parts: str) -> dict[str, Any]:
    """Return the result of a tool that says ``parts``."""
    return {"content": [{"type": "text", "text": part} for part in parts]}


class InputNeededError(Exception):
    """A modern call cannot go on before the client has answered ``requests``."""

    def __init__(self, requests: dict[str, Any], state: str | None) -> None:
        super().__init__(sorted(requests))
        self.requests = requests
        self.state = state


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a client under way, with what a function may do besides answering."""

    context: ServerRequestContext[Any, Any]
    variables: Mapping[str, str]
    """Values of the variables of a resource template."""

    @property
    def params(self) -> Mapping[str, Any]:
        return self.context.params or {}

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.params.get("arguments") or {})

    @property
    def modern(self) -> bool:
        return self.context.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the client said that it can be asked for."""
        declared = self.context.session.client_capabilities
        return {} if declared is None else declared.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def state(self) -> str | None:
        """What an earlier round of this call handed to the client to keep."""
        state = self.params.get("requestState")
        return None if state is None else str(state)

    async def log(self, level: LoggingLevel, data: object) -> None:
        await self.context.session.send_log_message(level, data, related_request_id=self.context.request_id)

    async def progress(self, done: float, total: float, message: str | None = None) -> None:
        await self.context.session.report_progress(done, total, message)

    def require(self, capability: str) -> None:
        """Refuse the call of a client that did not declare ``capability``."""
        if capability not in self.capabilities:
            data: dict[str, Any] = {"requiredCapabilities": {capability: {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, f"The client has no {capability}.", data)

    async def inputs(
        self, requests: Mapping[str, tuple[str, dict[str, Any]]], *, state: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the client's answers to ``requests``, given as method and params by key.

        Raises:
            InputNeededError: The client speaks the modern revision and has not answered them all yet.
        """
        if not self.modern:
            return {key: await self._ask(method, params) for key, (method, params) in requests.items()}
        given = self.params.get("inputResponses") or {}
        if requests.keys() <= given.keys():
            return {key: given[key] for key in requests}
        raise InputNeededError(
            {key: {"method": method, "params": params} for key, (method, params) in requests.items()}, state
        )

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.require(_CAPABILITY_OF[method])
        session = self.context.session
        metadata = ServerMessageMetadata(related_request_id=self.context.request_id)
        message = {"method": method, "params": params}
        answer: CreateMessageResult | ElicitResult | ListRootsResult
        if method == "elicitation/create":
            answer = await session.send_request(ElicitRequest.model_validate(message), ElicitResult, metadata=metadata)
        elif method == "sampling/createMessage":
            request = CreateMessageRequest.model_validate(message)
            answer = await session.send_request(request, CreateMessageResult, metadata=metadata)
        else:
            answer = await session.send_request(
                ListRootsRequest.model_validate(message), ListRootsResult, metadata=metadata
            )
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


class _Engine(Server[Any]):
    """The SDK's engine, which to clients of the older revisions does not say by itself that its lists change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        options = notification_options or NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(options, experimental_capabilities, extensions)


class WireServer:
    """Definitions and the functions behind them; ``engine`` serves them over any transport."""

    def __init__(self, name: str, *, version: str = "1.2.3", instructions: str | None = None) -> None:
        self.tools: dict[str, tuple[dict[str, Any], Handler]] = {}
        self.prompts: dict[str, tuple[dict[str, Any], Handler]] = {}
        self.resources: dict[str, tuple[dict[str, Any], Handler]] = {}
        self.templates: dict[str, tuple[dict[str, Any], Handler]] = {}
        self.completions: Callable[[Request], list[str]] = lambda _: []
        self.bus = InMemorySubscriptionBus()
        # A handler may return the wire form (HandlerResult), which the annotations of the constructor leave out.
        handlers: dict[str, Any] = {
            "on_list_tools": self._lister("tools", self.tools),
            "on_call_tool": self._caller("name", self.tools),
            "on_list_prompts": self._lister("prompts", self.prompts),
            "on_get_prompt": self._caller("name", self.prompts),
            "on_list_resources": self._lister("resources", self.resources),
            "on_list_resource_templates": self._lister("resourceTemplates", self.templates),
            "on_read_resource": self._read,
            "on_subscribe_resource": self._subscribe,
            "on_unsubscribe_resource": self._unsubscribe,
            "on_completion": self._complete,
            "on_set_logging_level": _accept,
            "on_subscriptions_listen": ListenHandler(self.bus),
        }
        self.engine: Server[Any] = _Engine(
            name,
            version=version,
            instructions=instructions,
            get_tool_input_schema=lambda tool: self.tools[tool][0]["inputSchema"] if tool in self.tools else None,
            **handlers,
        )
        self.engine.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=name))
        self.subscribed: dict[str, dict[str, ServerRequestContext[Any, Any]]] = {}
        """By URI and session, the requests with which clients of the older revisions subscribed to it."""

    def tool(
        self, name: str, description: str, schema: dict[str, Any] = NO_ARGUMENTS, **more: object
    ) -> Callable[[Handler], Handler]:
        """Register a tool; ``more`` are further members of its definition."""
        definition = {"name": name, "description": description, "inputSchema": schema, **more}
        return _register(self.tools, name, definition)

    def prompt(self, name: str, description: str, *arguments: str, **more: object) -> Callable[[Handler], Handler]:
        """Register a prompt with required ``arguments``."""
        named = [{"name": argument, "description": argument, "required": True} for argument in arguments]
        return _register(self.prompts, name, {"name": name, "description": description, "arguments": named, **more})

    def resource(self, uri: str, name: str, mime_type: str) -> Callable[[Handler], Handler]:
        """Register a resource, or a template where ``uri`` has variables in braces."""
        member, table = ("uriTemplate", self.templates) if "{" in uri else ("uri", self.resources)
        definition = {member: uri, "name": name, "description": name, "mimeType": mime_type}
        return _register(table, uri, definition)

    def _lister(self, member: str, table: dict[str, tuple[dict[str, Any], Handler]]) -> Any:
        async def answer(_: ServerRequestContext[Any, Any], __: object) -> dict[str, Any]:
            return {**_COMPLETE, **_UNCACHED, member: [definition for definition, _ in table.values()]}

        return answer

    def _caller(self, member: str, table: dict[str, tuple[dict[str, Any], Handler]]) -> Any:
        async def answer(context: ServerRequestContext[Any, Any], _: object) -> dict[str, Any]:
            request = Request(context, {})
            name = request.params[member]
            if name not in table:
                raise MCPError(INVALID_PARAMS, f"There is no {name}.")
            return await _run(table[name][1], request)

        return answer

    async def _read(self, context: ServerRequestContext[Any, Any], _: object) -> dict[str, Any]:
        uri = Request(context, {}).params["uri"]
        if uri in self.resources:
            return _UNCACHED | await _run(self.resources[uri][1], Request(context, {}))
        for template, (_definition, handler) in self.templates.items():
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
            if found := re.fullmatch(pattern, uri):
                return _UNCACHED | await _run(handler, Request(context, found.groupdict()))
        raise MCPError(INVALID_PARAMS, "There is no such resource.", {"uri": uri})

    async def _complete(self, context: ServerRequestContext[Any, Any], _: object) -> dict[str, Any]:
        values = self.completions(Request(context, {}))
        return {**_COMPLETE, "completion": {"values": values, "total": len(values), "hasMore": False}}

    async def _subscribe(self, context: ServerRequestContext[Any, Any], _: object) -> EmptyResult:
        self.subscribed.setdefault(Request(context, {}).params["uri"], {})[_session_of(context)] = context
        return EmptyResult()

    async def _unsubscribe(self, context: ServerRequestContext[Any, Any], _: object) -> EmptyResult:
        self.subscribed.get(Request(context, {}).params["uri"], {}).pop(_session_of(context), None)
        return EmptyResult()


def _session_of(context: ServerRequestContext[Any, Any]) -> str:
    """Return the name of a session, which over stdio is the whole process."""
    if context.request is None:
        return ""
    named: str = context.request.headers.get("mcp-session-id") or context.request.query_params.get("session_id", "")
    return named


async def _accept(_: ServerRequestContext[Any, Any], __: object) -> EmptyResult:
    return EmptyResult()


async def _run(handler: Handler, request: Request) -> dict[str, Any]:
    try:
        return _COMPLETE | await handler(request)
    except InputNeededError as needed:
        state = {} if needed.state is None else {"requestState": needed.state}
        return {"resultType": "input_required", "inputRequests": needed.requests, **state}


def _register(
    table: dict[str, tuple[dict[str, Any], Handler]], key: str, definition: dict[str, Any]
) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        table[key] = (json.loads(json.dumps(definition)), handler)
        return handler

    return register
