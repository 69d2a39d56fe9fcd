"""What the routes of tokens and their keys take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from agentapi.identity.revocations.routes import RevocationInput
from agentapi.operation import Answer, Operation

__all__ = ["OPERATIONS"]

_TAG: Final = "Tokens"

OPERATIONS: Final = (
    Operation(
        route="POST /api/v1/tokens/revoke",
        tag=_TAG,
        summary="Revoke an access token",
        description="One's own, of any issuer, or as an admin that of a member. It is refused in all processes.",
        body=RevocationInput,
        example={"token": "eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl"},
        answers=(Answer(204, "It is refused from now on."),),
    ),
    Operation(
        route="GET /.well-known/jwks.json",
        tag=_TAG,
        summary="Read the keys of the gateway's own issuer",
        answers=(Answer(200, "A key set (RFC 7517).", dict[str, Any], "application/jwk-set+json"),),
    ),
)
