"""What goes wrong between a user, an authorization server and the gateway."""

from __future__ import annotations

from agentapi.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    UpstreamError,
    UpstreamNeedsConnectionError,
)

__all__ = [
    "AuthorizationServerError",
    "AuthorizationServerRestsError",
    "BroughtRefusedError",
    "ClientMissingError",
    "FlowRefusedError",
    "GrantRefusedError",
    "ReconnectNeededError",
]


class AuthorizationServerError(UpstreamError):
    """An authorization server could not be found, reached or understood, or must not be trusted."""

    code = "authorization_server_failed"


class AuthorizationServerRestsError(AuthorizationServerError):
    """An authorization server was not asked, since it fails or too many ask; ``retry_after_s`` is how long to wait."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class GrantRefusedError(AuthorizationServerError):
    """The authorization server answered with an error (RFC 6749, section 5.2); ``error`` is its code."""

    code = "authorization_refused"

    def __init__(self, error: str) -> None:
        super().__init__(f"The authorization server answered with the error '{error}'.", oauth_error=error)
        self.error = error


class ClientMissingError(ConflictError):
    """The authorization server wants a client that an administrator has to register."""

    code = "oauth_client_missing"


class FlowRefusedError(ForbiddenError):
    """A callback does not belong to a flow that this browser has under way."""

    code = "oauth_flow_refused"


class ReconnectNeededError(UpstreamNeedsConnectionError):
    """The connection was there and is of no more use: only its owner can renew it."""

    code = "reconnect_needed"


class BroughtRefusedError(InvalidRequestError):
    """The upstream cannot be used with what a user brought; ``reason`` is one sentence that repeats no value."""

    code = "credential_not_accepted"

    def __init__(self, upstream: str, reason: str) -> None:
        super().__init__(f"Nothing was stored, for upstream '{upstream}' cannot be used with this. {reason}")
        self.reason = reason
