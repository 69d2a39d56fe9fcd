"""What the routes of upstream servers take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field
from typing_extensions import TypedDict

from agentapi.api_input import PAGE, WORKSPACE
from agentapi.errors import ConflictError, LimitReachedError, NotFoundError, UpstreamRestsError
from agentapi.operation import Answer, Operation, Parameter, Slug
from agentapi.upstreams.documents import ConfigurationDocument, ConfigurationPage
from agentapi.upstreams.imports import ImportReport
from agentapi.upstreams.models import Scope
from agentapi.upstreams.probe import ProbeResult
from agentapi.upstreams.requests import ConnectionTest, UpstreamInput

__all__ = ["OPERATIONS"]

_TAG: Final = "Upstream servers"
_CONFIGURATION: Final = Answer(200, "The upstream server.", ConfigurationDocument)


_EXAMPLE: Final = {
    "name": "notes",
    "transport": "http",
    "endpoint": "https://notes.example.com/mcp",
    "auth": "bearer",
    "secret": "token-of-the-server",
}


class ImportFile(TypedDict, total=False):
    """The configuration file of an MCP client as it is; ``servers`` is VS Code's word."""

    mcpServers: Annotated[dict[str, Any], Field(min_length=1)]
    servers: Annotated[dict[str, Any], Field(min_length=1)]
    inputs: list[Any]


OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/mcp/configurations",
        tag=_TAG,
        summary="List upstream servers",
        parameters=(Parameter("workspace", "Only those of this workspace.", Slug), *PAGE),
        answers=(Answer(200, "Upstream servers in the order of their names.", ConfigurationPage),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="POST /api/v1/mcp/configurations",
        tag=_TAG,
        summary="Register an upstream server",
        body=UpstreamInput,
        example=_EXAMPLE,
        leads_to=("/api/v1/mcp/oauth/providers/{id}", "/api/v1/mcp/credentials/{upstream}"),
        answers=(
            Answer(201, "The new upstream server.", ConfigurationDocument, headers=(("Location", "Where it is."),)),
        ),
        errors=(ConflictError, LimitReachedError, NotFoundError),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="GET /api/v1/mcp/configurations/{id}",
        tag=_TAG,
        summary="Read an upstream server",
        answers=(_CONFIGURATION,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/mcp/configurations/{id}",
        tag=_TAG,
        summary="Replace an upstream server",
        description="A body without `secret` keeps the stored one, unless it would go to another address.",
        body=UpstreamInput,
        example=_EXAMPLE,
        answers=(_CONFIGURATION,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/mcp/configurations/{id}",
        tag=_TAG,
        summary="Delete an upstream server",
        answers=(Answer(204, "It is deleted."),),
        versioned="change",
    ),
    Operation(
        route="POST /api/v1/mcp/test",
        tag=_TAG,
        summary="Connect to an upstream server for real, and say what is there or why not",
        description="The body has either the `id` of a stored one or a `configuration`.",
        body=ConnectionTest,
        example={"configuration": _EXAMPLE},
        answers=(Answer(200, "What the test found; `ok` says whether it went well.", ProbeResult),),
        errors=(NotFoundError, UpstreamRestsError),
    ),
    Operation(
        route="POST /api/v1/mcp/import",
        tag=_TAG,
        summary="Take over the servers of an MCP client's configuration file",
        description="A second time, what exists already is left as it is.",
        parameters=(
            WORKSPACE,
            Parameter("scope", "For whom they will be; `organization` where none is given.", Scope),
            Parameter("dry_run", "`true` only says what would become of each entry.", bool),
        ),
        body=ImportFile,
        example={"mcpServers": {"notes": {"url": "https://notes.example.com/mcp"}}},
        answers=(Answer(200, "What became of each entry.", ImportReport),),
        errors=(NotFoundError,),
    ),
)
