"""Results and errors as JSON-RPC messages, for the fronts of both eras; the one place where an error becomes one.

What was foreseen is told in its own words. What was not is logged, and the client learns no more than that.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from mcp import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND
from mcp_types.methods import CLIENT_REQUESTS, validate_client_request
from pydantic import ValidationError
from starlette.responses import Response

from agentapi.errors import AgentAPIError, ForbiddenError, InvalidRequestError, NotFoundError, UpstreamError
from agentapi.gateway.pages import RawResult

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "REQUEST_CANCELLED",
    "RpcRefusalError",
    "check_params",
    "error_message",
    "error_object",
    "error_status",
    "notification_message",
    "refusal_response",
    "request_message",
    "result_message",
]

_log = structlog.get_logger(__name__)

REQUEST_CANCELLED: Final = -32800
"""The code of the Language Server Protocol for a request that its client has cancelled; MCP names none."""

_CODES: tuple[tuple[type[AgentAPIError], int], ...] = (
    (InvalidRequestError, INVALID_PARAMS),
    (NotFoundError, INVALID_PARAMS),
    (ForbiddenError, INVALID_REQUEST),
    (AgentAPIError, INTERNAL_ERROR),
)
"""First match wins, so a subclass stands before its base."""

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_UNFORESEEN: Final = "Something went wrong here; the log has the details."
_MAX_PLACES: Final = 8


class RpcRefusalError(Exception):
    """A message is refused before it is acted upon: an error object, and the HTTP status that goes with it."""

    def __init__(
        self, code: int, message: str, *, data: object = None, status: int | None = None, id_json: bytes | None = None
    ) -> None:
        super().__init__(message)
        self.error = _object(code, message, data)
        self.status = status if status is not None else error_status(self.error)
        self.id_json = id_json


def check_params(method: str, revision: str, params: Mapping[str, Any] | None) -> None:
    """Refuse a request whose method or params the revision does not have; what they hold besides passes.

    Raises:
        MCPError: Method not found, or invalid params with the places that are wrong.
    """
    if (method, revision) not in CLIENT_REQUESTS:
        raise MCPError(code=METHOD_NOT_FOUND, message="There is no such method.", data={"method": method})
    try:
        validate_client_request(method, revision, params)
    except ValidationError as error:
        places = [_pointer(detail["loc"]) for detail in error.errors(include_url=False, include_input=False)]
        data = {"code": InvalidRequestError.code, "fields": places[:_MAX_PLACES]}
        raise MCPError(code=INVALID_PARAMS, message="The params of the request are not valid.", data=data) from None


def error_object(error: Exception) -> dict[str, Any]:
    """Return the JSON-RPC error for ``error`` (JSON-RPC 2.0, section 5.1); one that nobody foresaw is logged."""
    if isinstance(error, RpcRefusalError):
        return error.error
    if isinstance(error, MCPError):
        return _object(error.code, error.message, error.data)
    if isinstance(error, AgentAPIError):
        if error.log_context:
            _log.info("request_refused", code=error.code, **error.log_context)
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        return _object(code, error.message, {"code": error.code})
    _log.error("request_crashed", exc_info=error)
    return _object(INTERNAL_ERROR, _UNFORESEEN, {"code": AgentAPIError.code})


def error_status(error: Mapping[str, Any]) -> int:
    """Return the HTTP status of an error of the modern era (specification 2026-07-28, "Streamable HTTP")."""
    return ERROR_CODE_HTTP_STATUS.get(error["code"], HTTPStatus.OK)


def result_message(id_json: bytes, result: Mapping[str, Any]) -> bytes:
    """Return the response to the request whose id is written ``id_json``.

    Raises:
        UpstreamError: The result is not one that JSON can carry.
    """
    text = result.raw if isinstance(result, RawResult) else _encode(result)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_json, text)


def error_message(id_json: bytes | None, error: Mapping[str, Any]) -> bytes:
    """Return the error response; without an id to a message that has none that is good."""
    try:
        text = _encode(error)
    except UpstreamError:
        # The data is an upstream's; what it says of the error otherwise is still worth having.
        text = _encode({"code": error["code"], "message": str(error["message"]).encode("ascii", "replace").decode()})
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id_json if id_json is not None else b"null", text)


def refusal_response(refusal: RpcRefusalError) -> Response:
    """Return the HTTP response to a message that is refused."""
    body = error_message(refusal.id_json, refusal.error)
    return Response(body, status_code=refusal.status, media_type="application/json")


def notification_message(method: str, params: Mapping[str, Any]) -> bytes:
    """Return a notification.

    Raises:
        UpstreamError: The params are not such as JSON can carry.
    """
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


def request_message(identifier: str, method: str, params: Mapping[str, Any]) -> bytes:
    """Return a request of the server.

    Raises:
        UpstreamError: The params are not such as JSON can carry.
    """
    return _encode({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params})


def _encode(value: Mapping[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError):
        # NaN, a lone surrogate (a UnicodeEncodeError is a ValueError), or a tree without end.
        raise UpstreamError("What the upstream answered cannot be written as JSON.") from None


def _object(code: int, message: str, data: object) -> dict[str, Any]:
    return {"code": code, "message": message} if data is None else {"code": code, "message": message, "data": data}


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join(f"/{str(part)[:64].replace('~', '~0').replace('/', '~1')}" for part in location[:16])
