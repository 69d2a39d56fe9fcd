"""What the MCP endpoint and the routes around it take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field
from typing_extensions import TypedDict

from agentapi.api_input import WORKSPACE
from agentapi.errors import (
    ConflictError,
    NotFoundError,
)
from agentapi.gateway.explain import ExplanationDocument
from agentapi.operation import Answer, Operation, Parameter, Slug

__all__ = ["OPERATIONS"]

_MCP: Final = "MCP"
_POINTER: Final = (
    "The Model Context Protocol over Streamable HTTP, of the revision 2026-07-28 and older ones; see"
    " https://modelcontextprotocol.io/specification. What a message may say is the protocol's, not this document's."
    " `GET` opens a stream and `DELETE` ends a session, in the older revisions alone. Errors are JSON-RPC errors."
)
_ERROR: Final = "A JSON-RPC error."


class RpcMessage(TypedDict):
    """A message of JSON-RPC 2.0, as the protocol defines them."""

    jsonrpc: str


class ResourceMetadata(TypedDict, total=False):
    """Metadata of a protected resource (RFC 9728)."""

    resource: Any
    resource_name: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    scopes_supported: list[str]


def _endpoint(path: str, summary: str) -> Operation:
    return Operation(
        route=f"* {path}",
        tag=_MCP,
        summary=summary,
        description=_POINTER,
        body=dict[str, Any],
        answers=(
            Answer(200, "The answer.", dict[str, Any]),
            Answer(200, "The answer as the last of a stream of events.", str, "text/event-stream"),
            Answer(202, "A notification was taken; there is no answer to it."),
            *(
                Answer(status, _ERROR, dict[str, Any])
                for status in (400, 401, 403, 404, 405, 406, 408, 413, 415, 429, 500, 503)
            ),
        ),
    )


def _metadata(path: str) -> Operation:
    return Operation(
        route=f"GET /.well-known/oauth-protected-resource{path}",
        tag="Discovery",
        summary="Find out who issues tokens for an MCP endpoint",
        answers=(
            Answer(200, "The metadata.", ResourceMetadata),
            Answer(404, "No workspace could be called so.", dict[str, Any]),
        ),
    )


_WORKSPACE_PATH: Final = "/mcp/{org}/{workspace}"
_TOOLSET_PATH: Final = f"{_WORKSPACE_PATH}/{{toolset}}"

OPERATIONS: Final = (
    _endpoint(_WORKSPACE_PATH, "Speak MCP with a workspace"),
    _endpoint(_TOOLSET_PATH, "Speak MCP with a toolset of a workspace"),
    _metadata(_WORKSPACE_PATH),
    _metadata(_TOOLSET_PATH),
    Operation(
        route="GET /api/v1/mcp/explain",
        tag="Tool policy",
        summary="Find out why somebody sees a tool or not, and may call it or not",
        parameters=(
            Parameter(
                "tool",
                "The name of the tool, as clients see it.",
                Annotated[str, Field(min_length=1, max_length=1000)],
                required=True,
            ),
            WORKSPACE,
            Parameter("toolset", "As whoever comes by this toolset sees it.", Slug),
            Parameter("as", "A user id, subject or email address; for anybody but yourself it takes an admin."),
            Parameter("scope", "Scopes to assume; may be repeated.", list[str]),
        ),
        answers=(Answer(200, "Every check, one by one.", ExplanationDocument),),
        errors=(ConflictError, NotFoundError),
    ),
)
