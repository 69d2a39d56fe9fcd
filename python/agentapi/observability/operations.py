"""What the probes answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired

from typing_extensions import TypedDict

from agentapi.observability.health import Status
from agentapi.operation import Answer, Operation

__all__ = ["OPERATIONS"]

_TAG: Final = "Health"


class LiveDocument(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class ReadyDocument(TypedDict):
    """Whether traffic may come."""

    status: Literal["ready", "not_ready", "draining"]


class PartDocument(TypedDict):
    """How a part is."""

    status: Status
    critical: bool
    latency_ms: float
    details: NotRequired[dict[str, Any]]


class HealthDocument(TypedDict):
    """How the whole and its parts are."""

    status: Status
    draining: bool
    parts: dict[str, PartDocument]


OPERATIONS: Final = (
    Operation(
        route="GET /live",
        tag=_TAG,
        summary="Ask whether the process answers",
        answers=(Answer(200, "It does.", LiveDocument),),
    ),
    Operation(
        route="GET /ready",
        tag=_TAG,
        summary="Ask whether traffic may come",
        answers=(Answer(200, "It may.", ReadyDocument), Answer(503, "It may not.", ReadyDocument)),
    ),
    Operation(
        route="GET /health",
        tag=_TAG,
        summary="Ask how each part is",
        answers=(
            Answer(200, "It serves, as a whole or in part.", HealthDocument),
            Answer(503, "A part is down without which it is useless.", HealthDocument),
        ),
    ),
)
