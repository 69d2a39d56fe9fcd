"""What the routes of API keys take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from agentapi.api_input import PAGE
from agentapi.errors import ConflictError, NotFoundError
from agentapi.identity.api_keys.documents import KeyDocument, KeyPage, NewKeyDocument
from agentapi.identity.api_keys.routes import KeyInput, RotationInput
from agentapi.operation import Answer, Operation

__all__ = ["OPERATIONS"]

_TAG: Final = "API keys"

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/api-keys",
        tag=_TAG,
        summary="List API keys",
        description="An admin sees all of the organisation's, anybody else their own.",
        parameters=PAGE,
        answers=(Answer(200, "Keys in the order of their names.", KeyPage),),
    ),
    Operation(
        route="POST /api/v1/api-keys",
        tag=_TAG,
        summary="Make an API key",
        description="The text of the key is in this answer and nowhere else. An API key makes no others.",
        body=KeyInput,
        example={"name": "build server", "acts_as": "agent", "scopes": ["mcp:tools"]},
        answers=(Answer(201, "The new key.", NewKeyDocument, headers=(("Location", "Where it is."),)),),
        errors=(NotFoundError,),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="GET /api/v1/api-keys/{id}",
        tag=_TAG,
        summary="Read an API key",
        answers=(Answer(200, "The key, without its text.", KeyDocument),),
        versioned="answer",
    ),
    Operation(
        route="DELETE /api/v1/api-keys/{id}",
        tag=_TAG,
        summary="Revoke an API key",
        answers=(Answer(204, "It is good for nothing any more."),),
        versioned="change",
    ),
    Operation(
        route="POST /api/v1/api-keys/{id}/rotate",
        tag=_TAG,
        summary="Give an API key a new secret",
        description="The old one stays good for `overlap_s`.",
        body=RotationInput,
        example={"overlap_s": 3600},
        answers=(Answer(200, "The key with its new text.", NewKeyDocument),),
        errors=(ConflictError,),
        creates=True,
        versioned="change",
    ),
)
