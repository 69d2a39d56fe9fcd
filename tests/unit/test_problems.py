from __future__ import annotations

import json
from typing import Any

import pytest

from agentapi import errors
from agentapi.problems import bearer_challenge, problem_response, rpc_error_response

MADE: dict[type[errors.AgentAPIError], tuple[errors.AgentAPIError, int, str]] = {
    errors.AgentAPIError: (errors.AgentAPIError("x"), 500, "internal_error"),
    errors.UnauthenticatedError: (errors.UnauthenticatedError("why", presented=True), 401, "unauthenticated"),
    errors.ForbiddenError: (errors.ForbiddenError("x"), 403, "forbidden"),
    errors.InsufficientScopeError: (errors.InsufficientScopeError(("a", "b")), 403, "insufficient_scope"),
    errors.MethodNotAllowedError: (errors.MethodNotAllowedError("x"), 405, "method_not_allowed"),
    errors.NotFoundError: (errors.NotFoundError("x"), 404, "not_found"),
    errors.NotAcceptableError: (errors.NotAcceptableError("x"), 406, "not_acceptable"),
    errors.RequestTimeoutError: (errors.RequestTimeoutError("x"), 408, "request_timeout"),
    errors.RateLimitedError: (errors.RateLimitedError(3), 429, "rate_limited"),
    errors.TooManyStreamsError: (errors.TooManyStreamsError("x"), 429, "too_many_streams"),
    errors.LimitReachedError: (errors.LimitReachedError("x"), 409, "limit_reached"),
    errors.ConflictError: (errors.ConflictError("x"), 409, "conflict"),
    errors.InvalidRequestError: (errors.InvalidRequestError("x"), 422, "invalid_request"),
    errors.PreconditionFailedError: (errors.PreconditionFailedError("x"), 412, "precondition_failed"),
    errors.MalformedRequestError: (errors.MalformedRequestError("x"), 400, "malformed_request"),
    errors.InvalidCursorError: (errors.InvalidCursorError(), 400, "invalid_cursor"),
    errors.IdempotencyKeyError: (errors.IdempotencyKeyError(), 400, "invalid_idempotency_key"),
    errors.IdempotencyKeyInUseError: (errors.IdempotencyKeyInUseError(), 409, "idempotency_key_in_use"),
    errors.IdempotencyKeyReusedError: (errors.IdempotencyKeyReusedError(), 422, "idempotency_key_reused"),
    errors.PayloadTooLargeError: (errors.PayloadTooLargeError("x"), 413, "payload_too_large"),
    errors.UnsupportedMediaTypeError: (errors.UnsupportedMediaTypeError("x"), 415, "unsupported_media_type"),
    errors.EgressRefusedError: (errors.EgressRefusedError("x"), 422, "egress_refused"),
    errors.StorageUnavailableError: (errors.StorageUnavailableError("x"), 503, "storage_unavailable"),
    errors.RedisUnavailableError: (errors.RedisUnavailableError(), 503, "redis_unavailable"),
    errors.AuditUnavailableError: (errors.AuditUnavailableError("x"), 503, "audit_unavailable"),
    errors.UpstreamError: (errors.UpstreamError("x"), 502, "upstream_unavailable"),
    errors.UpstreamTimeoutError: (errors.UpstreamTimeoutError("x"), 504, "upstream_timeout"),
    errors.UpstreamRestsError: (errors.UpstreamRestsError("x"), 503, "upstream_resting"),
    errors.UpstreamNeedsConnectionError: (errors.UpstreamNeedsConnectionError("x"), 409, "connection_required"),
    errors.StartupError: (errors.StartupError("x"), 500, "startup_failed"),
}
CASES = list(MADE.values())


def test_the_table_names_every_error() -> None:
    named = {getattr(errors, name) for name in errors.__all__}
    kinds = {kind for kind in named if isinstance(kind, type) and issubclass(kind, errors.AgentAPIError)}
    # It tells the gateway and not the client that an upstream was not asked.
    assert kinds - {errors.UpstreamUnaskedError} == set(MADE)
    assert len({code for _, _, code in CASES}) == len(CASES)


@pytest.mark.parametrize(("error", "status", "code"), CASES, ids=[case[2] for case in CASES])
def test_an_error_is_a_problem_document(error: errors.AgentAPIError, status: int, code: str) -> None:
    answer = problem_response(error, headers={"X-Other": "1"})
    document = json.loads(bytes(answer.body))
    assert answer.status_code == document["status"] == status
    assert answer.media_type == "application/problem+json"
    assert answer.headers["x-other"] == "1"
    assert (document["type"], document["code"], document["detail"]) == ("about:blank", code, error.message)
    assert set(document) == {"type", "title", "status", "code", "detail"}


@pytest.mark.parametrize(("error", "status", "code"), CASES, ids=[case[2] for case in CASES])
def test_an_error_is_a_json_rpc_error(error: errors.AgentAPIError, status: int, code: str) -> None:
    answer = rpc_error_response(error)
    document = json.loads(bytes(answer.body))
    assert (answer.status_code, answer.media_type) == (status, "application/json")
    assert (document["jsonrpc"], document["id"]) == ("2.0", None)
    assert document["error"] == {
        "code": -32603 if status >= 500 else -32600,
        "message": error.message,
        "data": {"code": code},
    }


def test_fields_come_with_their_pointers() -> None:
    error = errors.InvalidRequestError("x", (errors.FieldError("/a", "one"), errors.FieldError("", "two")))
    document: dict[str, Any] = json.loads(bytes(problem_response(error).body))
    assert document["errors"] == [{"pointer": "/a", "detail": "one"}, {"pointer": "", "detail": "two"}]


def test_what_is_for_the_log_is_in_no_answer() -> None:
    error = errors.UpstreamError("The server failed.", address="10.1.2.3")
    unauthenticated = errors.UnauthenticatedError("bad_signature", presented=True)
    for rendered in (problem_response(error), rpc_error_response(error)):
        assert b"10.1.2.3" not in bytes(rendered.body)
    for rendered in (problem_response(unauthenticated), rpc_error_response(unauthenticated)):
        assert b"bad_signature" not in bytes(rendered.body)


PRESENTED = errors.UnauthenticatedError("why", presented=True)
ABSENT = errors.UnauthenticatedError("why", presented=False)


@pytest.mark.parametrize(
    ("error", "given", "expected"),
    [
        (ABSENT, {}, "Bearer"),
        (ABSENT, {"resource_metadata": "https://g/m"}, 'Bearer resource_metadata="https://g/m"'),
        (
            ABSENT,
            {"resource_metadata": "https://g/m", "scopes": ("a", "b")},
            'Bearer resource_metadata="https://g/m", scope="a b"',
        ),
        (PRESENTED, {}, 'Bearer error="invalid_token"'),
        (
            PRESENTED,
            {"resource_metadata": "https://g/m", "scopes": ("a",)},
            'Bearer error="invalid_token", resource_metadata="https://g/m", scope="a"',
        ),
        (
            errors.InsufficientScopeError(("x", "y")),
            {"resource_metadata": "https://g/m", "scopes": ("a",)},
            'Bearer error="insufficient_scope", resource_metadata="https://g/m", scope="x y"',
        ),
    ],
)
def test_a_challenge_says_what_is_missing(error: errors.AgentAPIError, given: dict[str, Any], expected: str) -> None:
    assert bearer_challenge(error, **given) == expected


def test_a_refusal_says_when_to_come_back_and_which_limit_it_is() -> None:
    error = errors.RateLimitedError(3, "user")
    problem, rpc = problem_response(error), rpc_error_response(error, id_json=b"7")
    assert problem.headers["retry-after"] == rpc.headers["retry-after"] == "3"
    document = json.loads(bytes(problem.body))
    assert (document["limit"], document["retry_after_s"]) == ("user", 3)
    told = json.loads(bytes(rpc.body))["error"]
    assert told["data"] == {"code": "rate_limited", "limit": "user", "retry_after_s": 3}
    assert told["message"] == "Too many requests for the limit of this user; try again in 3 s."
    assert problem_response(errors.RateLimitedError(2)).headers["retry-after"] == "2"
    assert problem_response(errors.RedisUnavailableError()).headers["retry-after"] == "1"
    assert "retry-after" not in problem_response(errors.NotFoundError("x")).headers
