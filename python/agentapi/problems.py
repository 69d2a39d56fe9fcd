"""Errors as responses; the only owner of HTTP status codes.

``/api`` answers with ``application/problem+json`` (RFC 9457). Bearer errors carry ``WWW-Authenticate``
(RFC 6750, section 3; RFC 9728, section 5.1).
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, ErrorData
from starlette.responses import Response
from typing_extensions import TypedDict

from agentapi import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PROBLEM_TYPE",
    "Problem",
    "bearer_challenge",
    "problem_response",
    "rpc_error_response",
    "rpc_response",
    "status_of",
    "status_of_kind",
]

PROBLEM_TYPE: Final = "application/problem+json"


class ProblemField(TypedDict):
    """One field of the input and what is wrong with it."""

    pointer: str
    """Into the body (RFC 6901)."""
    detail: str


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: str
    """What programs decide by; it stays the same."""
    detail: str
    """For people."""
    errors: NotRequired[list[ProblemField]]
    limit: NotRequired[str]
    """Which limit was reached."""
    retry_after_s: NotRequired[int]


_STATUS: tuple[tuple[type[errors.AgentAPIError], int, str], ...] = (
    (errors.MalformedRequestError, 400, "Malformed request"),
    (errors.UnauthenticatedError, 401, "Authentication required"),
    (errors.InsufficientScopeError, 403, "Insufficient scope"),
    (errors.ForbiddenError, 403, "Forbidden"),
    (errors.NotFoundError, 404, "Not found"),
    (errors.MethodNotAllowedError, 405, "Method not allowed"),
    (errors.NotAcceptableError, 406, "Not acceptable"),
    (errors.RequestTimeoutError, 408, "Request timed out"),
    (errors.LimitReachedError, 409, "Limit reached"),
    (errors.ConflictError, 409, "Conflict"),
    (errors.PreconditionFailedError, 412, "Precondition failed"),
    (errors.PayloadTooLargeError, 413, "Payload too large"),
    (errors.UnsupportedMediaTypeError, 415, "Unsupported media type"),
    (errors.InvalidRequestError, 422, "Invalid request"),
    (errors.EgressRefusedError, 422, "Address refused"),
    (errors.RateLimitedError, 429, "Too many requests"),
    (errors.TooManyStreamsError, 429, "Too many streams"),
    (errors.StorageUnavailableError, 503, "Storage unavailable"),
    (errors.UpstreamNeedsConnectionError, 409, "Connection required"),
    (errors.UpstreamRestsError, 503, "Upstream resting"),
    (errors.UpstreamTimeoutError, 504, "Upstream timed out"),
    (errors.UpstreamError, 502, "Upstream unavailable"),
    (errors.AgentAPIError, 500, "Internal error"),
)
"""First match wins, so a subclass stands before its base."""


def _lookup(error: type[errors.AgentAPIError]) -> tuple[int, str]:
    return next((status, title) for kind, status, title in _STATUS if issubclass(error, kind))


def status_of(error: errors.AgentAPIError) -> int:
    """Return the status of ``error``, for an answer of another form."""
    return status_of_kind(type(error))


def status_of_kind(error: type[errors.AgentAPIError]) -> int:
    """Return the status that every error of that kind has."""
    return _lookup(error)[0]


def problem_response(error: errors.AgentAPIError, *, headers: Mapping[str, str] | None = None) -> Response:
    """Render ``error`` as a problem document (RFC 9457, section 3)."""
    status, title = _lookup(type(error))
    document: Problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": error.code,
        "detail": error.message,
    }
    if isinstance(error, errors.RateLimitedError) and error.limit is not None:
        document["limit"], document["retry_after_s"] = error.limit, error.retry_after_s
    if isinstance(error, errors.InvalidRequestError) and error.fields:
        document["errors"] = [{"pointer": field.pointer, "detail": field.detail} for field in error.fields]
    return Response(
        json.dumps(document, ensure_ascii=False),
        status_code=status,
        media_type=PROBLEM_TYPE,
        headers={"Cache-Control": "no-store", **_waiting(error), **(headers or {})},
    )


def rpc_error_response(
    error: errors.AgentAPIError, *, id_json: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Render ``error`` as a JSON-RPC error for a request that never reached a front; its id is known if it was read."""
    status = status_of(error)
    code = INTERNAL_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID_REQUEST
    data = ErrorData(code=code, message=error.message, data={"code": error.code, **_limit_members(error)})
    return rpc_response(data, status, id_json=id_json, headers={**_waiting(error), **(headers or {})})


def rpc_response(
    error: ErrorData,
    status: int = HTTPStatus.BAD_REQUEST,
    *,
    id_json: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Render a JSON-RPC error (JSON-RPC 2.0, section 5); ``id_json`` is the request's id as it was written."""
    identifier = None if id_json is None else json.loads(id_json)
    document = {"jsonrpc": "2.0", "id": identifier, "error": error.model_dump(exclude_none=True)}
    return Response(json.dumps(document), status_code=status, media_type="application/json", headers=headers)


def _waiting(error: errors.AgentAPIError) -> dict[str, str]:
    """Return ``Retry-After`` (RFC 9110, section 10.2.3) where it is known when to come back."""
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        return {"Retry-After": str(wait_s)}
    return {"Retry-After": "1"} if isinstance(error, errors.RedisUnavailableError) else {}


def _limit_members(error: errors.AgentAPIError) -> dict[str, Any]:
    """Return which limit a refusal is for and how long to wait, for those who do not see headers."""
    if isinstance(error, errors.RateLimitedError) and error.limit is not None:
        return {"limit": error.limit, "retry_after_s": error.retry_after_s}
    return {}


def bearer_challenge(
    error: errors.AgentAPIError, *, resource_metadata: str | None = None, scopes: tuple[str, ...] = ()
) -> str:
    """Return the ``WWW-Authenticate`` value for a 401 or 403 (RFC 6750, section 3; RFC 9728, section 5.1)."""
    fields: dict[str, str] = {}
    if resource_metadata is not None:
        fields["resource_metadata"] = resource_metadata
    if scopes:
        fields["scope"] = " ".join(scopes)
    if isinstance(error, errors.InsufficientScopeError):
        fields = {"error": "insufficient_scope", **fields, "scope": " ".join(error.scopes)}
    elif isinstance(error, errors.UnauthenticatedError) and error.presented:
        fields = {"error": "invalid_token", **fields}
    return " ".join(["Bearer", ", ".join(f'{name}="{value}"' for name, value in fields.items())]).rstrip()
