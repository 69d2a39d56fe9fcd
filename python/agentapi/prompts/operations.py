"""What the routes of prompts take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from agentapi.api_input import PAGE
from agentapi.errors import ConflictError, NotFoundError
from agentapi.operation import Answer, Operation
from agentapi.prompts.documents import CompositionDocument, PromptDocument, PromptPage, PromptVersionPage
from agentapi.prompts.requests import ComposeInput, PromptInput, RollbackInput

__all__ = ["OPERATIONS"]

_TAG: Final = "Prompts"
_PROMPT: Final = Answer(200, "The prompt.", PromptDocument)

_EXAMPLE: Final = {
    "name": "tone",
    "text": "Answer {{ customer }} in short sentences.",
    "variables": [{"name": "customer", "default": "the customer"}],
}

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/prompts",
        tag=_TAG,
        summary="List prompts",
        description="Global ones, the organisation's, those of its workspaces and your own.",
        parameters=PAGE,
        answers=(Answer(200, "Prompts in the order of their names.", PromptPage),),
    ),
    Operation(
        route="POST /api/v1/prompts",
        tag=_TAG,
        summary="Create a prompt",
        body=PromptInput,
        example=_EXAMPLE,
        answers=(Answer(201, "The new prompt.", PromptDocument, headers=(("Location", "Where it is."),)),),
        errors=(ConflictError, NotFoundError),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="POST /api/v1/prompts/compose",
        tag=_TAG,
        summary="Compose the prompts that hold in a workspace",
        body=ComposeInput,
        example={"workspace": "main", "variables": {"customer": "Ms Doe"}},
        answers=(Answer(200, "The text, and which part of it came from where.", CompositionDocument),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="GET /api/v1/prompts/{id}",
        tag=_TAG,
        summary="Read a prompt",
        answers=(_PROMPT,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/prompts/{id}",
        tag=_TAG,
        summary="Replace a prompt by its next version",
        body=PromptInput,
        example=_EXAMPLE,
        answers=(_PROMPT,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/prompts/{id}",
        tag=_TAG,
        summary="Delete a prompt with all its versions",
        answers=(Answer(204, "It is deleted."),),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/prompts/{id}/versions",
        tag=_TAG,
        summary="List the versions of a prompt",
        parameters=PAGE,
        answers=(Answer(200, "Versions, the newest first.", PromptVersionPage),),
    ),
    Operation(
        route="POST /api/v1/prompts/{id}/rollback",
        tag=_TAG,
        summary="Make what an earlier version held the next one",
        body=RollbackInput,
        answers=(_PROMPT,),
        errors=(ConflictError,),
        versioned="change",
    ),
)
