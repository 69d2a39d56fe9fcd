"""What the routes of sessions take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from agentapi.api_input import PAGE
from agentapi.errors import ConflictError, LimitReachedError, NotFoundError
from agentapi.operation import Answer, Operation
from agentapi.sessions.documents import SessionDocument, SessionPage, StartedDocument, TokenDocument
from agentapi.sessions.routes import SessionInput

__all__ = ["OPERATIONS"]

_TAG: Final = "Sessions"

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/sessions",
        tag=_TAG,
        summary="List sessions",
        description="The newest first. An admin sees all of the organisation's, anybody else their own.",
        parameters=PAGE,
        answers=(Answer(200, "Sessions, those that ended in the last week among them.", SessionPage),),
    ),
    Operation(
        route="POST /api/v1/sessions",
        tag=_TAG,
        summary="Start a session for an agent",
        description="The answer has all that an agent needs to begin. A token is in it and nowhere else.",
        body=SessionInput,
        example={"name": "nightly report", "scopes": ["mcp:tools"]},
        answers=(Answer(201, "The new session.", StartedDocument, headers=(("Location", "Where it is."),)),),
        errors=(NotFoundError, LimitReachedError),
        creates=True,
    ),
    Operation(
        route="GET /api/v1/sessions/{id}",
        tag=_TAG,
        summary="Read a session",
        answers=(Answer(200, "The session.", SessionDocument),),
    ),
    Operation(
        route="DELETE /api/v1/sessions/{id}",
        tag=_TAG,
        summary="End a session",
        description="Its tokens are refused, and its directory is removed.",
        answers=(Answer(204, "It has ended."),),
    ),
    Operation(
        route="POST /api/v1/sessions/{id}/touch",
        tag=_TAG,
        summary="Note that a session is in use",
        answers=(Answer(200, "The session.", SessionDocument),),
        errors=(ConflictError,),
    ),
    Operation(
        route="POST /api/v1/sessions/{id}/tokens",
        tag=_TAG,
        summary="Get another token of a session",
        description="Only the user that the session acts for gets one.",
        answers=(Answer(201, "The token.", TokenDocument),),
        errors=(ConflictError,),
    ),
)
