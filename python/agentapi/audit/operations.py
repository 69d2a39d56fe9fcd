"""What the routes of the audit log take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from agentapi.api_input import PAGE
from agentapi.audit.documents import AuditPage
from agentapi.audit.models import Outcome
from agentapi.operation import Answer, Id, Operation, Parameter, Time

__all__ = ["OPERATIONS"]

_TAG: Final = "Audit log"
_Text = Annotated[str, Field(max_length=256)]
_FILTERS: Final = (
    Parameter("actor_id", "Only what this user did.", Id),
    Parameter("action", "Only this kind of act.", _Text),
    Parameter("resource", "Only what was done to this.", _Text),
    Parameter("outcome", "Only what ended so.", Outcome),
    Parameter("request_id", "Only what this request did.", _Text),
    Parameter("since", "Only what is not older.", Time),
    Parameter("until", "Only what is older.", Time),
    Parameter("of", "`deployment` is the log of the deployment, for platform admins.", Literal["deployment"]),
)

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/audit",
        tag=_TAG,
        summary="List rows of the audit log",
        parameters=(*_FILTERS, *PAGE),
        answers=(Answer(200, "Rows, the newest first.", AuditPage),),
    ),
    Operation(
        route="GET /api/v1/audit/export",
        tag=_TAG,
        summary="Export the audit log",
        parameters=_FILTERS,
        answers=(Answer(200, "Rows as lines of JSON, the newest first.", str, "application/x-ndjson"),),
    ),
)
