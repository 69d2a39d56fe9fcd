"""What the reference itself answers, for the document that it shows."""

from __future__ import annotations

from typing import Any, Final

from agentapi.operation import Answer, Operation

__all__ = ["OPERATIONS"]

_TAG: Final = "Reference"

OPERATIONS: Final = (
    Operation(
        route="GET /openapi.json",
        tag=_TAG,
        summary="Read this document",
        answers=(Answer(200, "OpenAPI 3.1.", dict[str, Any]),),
        versioned="answer",
    ),
    Operation(
        route="GET /docs",
        tag=_TAG,
        summary="Read this document as a page",
        answers=(Answer(200, "The page.", str, "text/html"),),
        versioned="answer",
    ),
)
