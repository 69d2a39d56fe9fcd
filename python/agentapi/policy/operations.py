"""What the routes of policies, toolsets and approvals take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from agentapi.api_input import PAGE, WORKSPACE
from agentapi.errors import ConflictError, NotFoundError
from agentapi.operation import Answer, Operation, Parameter
from agentapi.policy.documents import ApprovalDocument, ApprovalPage, PolicyDocument, ToolsetDocument, ToolsetPage
from agentapi.policy.models import ApprovalState
from agentapi.policy.requests import PolicyInput, ToolsetInput

__all__ = ["OPERATIONS"]

_POLICY: Final = "Tool policy"
_TOOLSETS: Final = "Toolsets"
_APPROVALS: Final = "Approvals"
_HOLDS: Final = Answer(200, "The policy.", PolicyDocument)
_TOOLSET: Final = Answer(200, "The toolset.", ToolsetDocument)
_APPROVAL: Final = Answer(200, "The definition as it stands now.", ApprovalDocument)

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/mcp/policy",
        tag=_POLICY,
        summary="Read the policy of a workspace",
        parameters=(WORKSPACE,),
        answers=(_HOLDS,),
        errors=(NotFoundError,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/mcp/policy",
        tag=_POLICY,
        summary="Replace the policy of a workspace",
        description="The whole of it: what is left out is as in an empty policy.",
        parameters=(WORKSPACE,),
        body=PolicyInput,
        example={"rules": [{"effect": "deny", "annotations": {"destructive": True}}]},
        answers=(_HOLDS,),
        errors=(ConflictError, NotFoundError),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/mcp/toolsets",
        tag=_TOOLSETS,
        summary="List toolsets",
        parameters=(WORKSPACE, *PAGE),
        answers=(Answer(200, "Toolsets in the order of their names.", ToolsetPage),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="POST /api/v1/mcp/toolsets",
        tag=_TOOLSETS,
        summary="Create a toolset",
        body=ToolsetInput,
        example={"name": "reading", "tools": ["*__get_*", "*__list_*"]},
        answers=(Answer(201, "The new toolset.", ToolsetDocument, headers=(("Location", "Where it is."),)),),
        errors=(ConflictError, NotFoundError),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="GET /api/v1/mcp/toolsets/{id}",
        tag=_TOOLSETS,
        summary="Read a toolset",
        answers=(_TOOLSET,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/mcp/toolsets/{id}",
        tag=_TOOLSETS,
        summary="Replace a toolset",
        body=ToolsetInput,
        example={"name": "reading", "tools": ["*__get_*", "*__list_*"]},
        answers=(_TOOLSET,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/mcp/toolsets/{id}",
        tag=_TOOLSETS,
        summary="Delete a toolset",
        answers=(Answer(204, "It is deleted."),),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/mcp/approvals",
        tag=_APPROVALS,
        summary="List the definitions of tools and how they stand",
        parameters=(WORKSPACE, Parameter("state", "Only those that stand so.", ApprovalState), *PAGE),
        answers=(Answer(200, "Definitions in the order of the tools' names.", ApprovalPage),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="POST /api/v1/mcp/approvals/{id}/approve",
        tag=_APPROVALS,
        summary="Let a definition of a tool be used",
        answers=(_APPROVAL,),
    ),
    Operation(
        route="POST /api/v1/mcp/approvals/{id}/hold",
        tag=_APPROVALS,
        summary="Keep a definition of a tool from being used",
        answers=(_APPROVAL,),
    ),
)
