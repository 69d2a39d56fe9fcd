"""Domain errors, each with a stable ``code``; none of them knows HTTP.

The message of an error is written for the person who caused it. What only the operator may read (why a token
was refused, which address a name resolved to) goes into ``log_context``, never into the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from agentapi.principal import Bearer, UpstreamId

__all__ = [
    "AgentAPIError",
    "AuditUnavailableError",
    "ConflictError",
    "EgressRefusedError",
    "FieldError",
    "ForbiddenError",
    "IdempotencyKeyError",
    "IdempotencyKeyInUseError",
    "IdempotencyKeyReusedError",
    "InsufficientScopeError",
    "InvalidCursorError",
    "InvalidRequestError",
    "LimitReachedError",
    "MalformedRequestError",
    "MethodNotAllowedError",
    "NotAcceptableError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PreconditionFailedError",
    "RateLimitedError",
    "RedisUnavailableError",
    "RequestTimeoutError",
    "StartupError",
    "StorageUnavailableError",
    "TooManyStreamsError",
    "UnauthenticatedError",
    "UnsupportedMediaTypeError",
    "UpstreamError",
    "UpstreamNeedsConnectionError",
    "UpstreamRestsError",
    "UpstreamTimeoutError",
    "UpstreamUnaskedError",
    "first_leaf",
]


class AgentAPIError(Exception):
    """Root of every error that AgentAPI raises on purpose."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **log_context: object) -> None:
        super().__init__(message)
        self.message = message
        self.log_context = log_context


class UnauthenticatedError(AgentAPIError):
    """The caller presented no acceptable credential. The reason is for the log alone."""

    code = "unauthenticated"

    def __init__(self, reason: str, *, presented: bool, bearer: Bearer | None = None) -> None:
        super().__init__("The access token is missing, expired or not valid for this server.", reason=reason)
        self.reason = reason
        self.presented = presented
        self.bearer = bearer
        """Whose the credential was, where the gateway itself has signed it."""


class ForbiddenError(AgentAPIError):
    """The caller is known and may not do this."""

    code = "forbidden"


class InsufficientScopeError(ForbiddenError):
    """The token lacks scopes; ``scopes`` names all that the operation needs (RFC 6750, section 3.1)."""

    code = "insufficient_scope"

    def __init__(self, scopes: tuple[str, ...]) -> None:
        super().__init__(f"The access token needs the scopes: {' '.join(scopes)}.")
        self.scopes = scopes


class MethodNotAllowedError(AgentAPIError):
    """The resource exists and does not take this method."""

    code = "method_not_allowed"


class NotFoundError(AgentAPIError):
    """There is no such thing, or none that the caller may know of; both read alike."""

    code = "not_found"


class ConflictError(AgentAPIError):
    """The change collides with what is stored."""

    code = "conflict"


class LimitReachedError(ConflictError):
    """The organisation's plan allows no more of this."""

    code = "limit_reached"


class PreconditionFailedError(AgentAPIError):
    """The change was made to another version than the stored one."""

    code = "precondition_failed"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of the input and what is wrong with it; ``pointer`` is an RFC 6901 pointer into the body."""

    pointer: str
    detail: str


class InvalidRequestError(AgentAPIError):
    """The input is wrong; ``fields`` says where."""

    code = "invalid_request"

    def __init__(self, message: str, fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class MalformedRequestError(AgentAPIError):
    """A part of the request around its body cannot be read."""

    code = "malformed_request"


class InvalidCursorError(MalformedRequestError):
    """The cursor is none that a list gave."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__("The parameter 'cursor' is not one that a list gave; begin again without it.")


class IdempotencyKeyError(MalformedRequestError):
    """The header ``Idempotency-Key`` is not a key."""

    code = "invalid_idempotency_key"

    def __init__(self) -> None:
        super().__init__("The header 'Idempotency-Key' is one text of 1 to 255 visible ASCII characters.")


class IdempotencyKeyInUseError(ConflictError):
    """The first request with this key has no answer yet."""

    code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__("A request with this idempotency key is being worked on; ask again in a moment.")


class IdempotencyKeyReusedError(InvalidRequestError):
    """The key was given to another request before."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This idempotency key belongs to another request; take a new one for each new request.")


class PayloadTooLargeError(AgentAPIError):
    """The request body exceeds the limit."""

    code = "payload_too_large"


class UnsupportedMediaTypeError(AgentAPIError):
    """The request body is not of the media type that the route reads."""

    code = "unsupported_media_type"


class NotAcceptableError(AgentAPIError):
    """The caller does not take the media types that the route answers in."""

    code = "not_acceptable"


class RequestTimeoutError(AgentAPIError):
    """The request body did not arrive in time."""

    code = "request_timeout"


class RateLimitedError(AgentAPIError):
    """The caller, or its organisation, asks too often; ``retry_after_s`` is how long to wait.

    ``limit`` names the limit that has to be waited for longest, where there are several kinds.
    """

    code = "rate_limited"

    def __init__(self, retry_after_s: int, limit: str | None = None) -> None:
        whose = "" if limit is None else f" for the limit of this {limit}"
        super().__init__(f"Too many requests{whose}; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s
        self.limit = limit


class TooManyStreamsError(AgentAPIError):
    """The caller, or all callers together, hold as many streams open as they may."""

    code = "too_many_streams"


class EgressRefusedError(AgentAPIError):
    """The address guard refused to let the process connect there."""

    code = "egress_refused"


class StorageUnavailableError(AgentAPIError):
    """The database cannot be reached now."""

    code = "storage_unavailable"


class RedisUnavailableError(StorageUnavailableError):
    """What processes share cannot be asked now, and nobody may decide without it."""

    code = "redis_unavailable"

    def __init__(self) -> None:
        super().__init__("Requests cannot be counted now; try again in a moment.")


class AuditUnavailableError(StorageUnavailableError):
    """The audit log cannot be written now, and without it nothing is done."""

    code = "audit_unavailable"


class UpstreamError(AgentAPIError):
    """An upstream server could not be reached or spoke nonsense."""

    code = "upstream_unavailable"


class UpstreamTimeoutError(UpstreamError):
    """An upstream server did not answer in time."""

    code = "upstream_timeout"


class UpstreamUnaskedError(UpstreamError):
    """The upstream was not asked, for a reason that is not its own."""


class UpstreamRestsError(UpstreamUnaskedError):
    """The upstream has failed too often of late and is not asked for a while; ``retry_after_s`` says how long."""

    code = "upstream_resting"

    def __init__(self, message: str, *, retry_after_s: int = 1, **log_context: object) -> None:
        super().__init__(message, **log_context)
        self.retry_after_s = retry_after_s


class UpstreamNeedsConnectionError(UpstreamError):
    """The upstream needs a credential that the caller has not connected, or one that is good for more.

    ``scopes`` are those that are missing, where the upstream named them.
    """

    code = "connection_required"

    def __init__(
        self,
        message: str,
        *,
        upstream_id: UpstreamId | None = None,
        scopes: tuple[str, ...] = (),
        **log_context: object,
    ) -> None:
        super().__init__(message, **log_context)
        self.upstream_id = upstream_id
        self.scopes = scopes


class StartupError(AgentAPIError):
    """The process cannot start; the message is one sentence that says what to do."""

    code = "startup_failed"


def first_leaf(error: BaseException) -> BaseException:
    """Return the first error of a group that is none itself; an error that is no group is its own leaf."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
