"""``POST /api/v1/tokens/revoke``: end one access token before its time, in every process.

The token itself is shown, as to RFC 7009: who revokes has it, or found it where it should not be. It is verified like
one that is used, so that nobody fills the list with names of tokens that there are none of.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.routing import Route

from agentapi.api_input import parse, read_json
from agentapi.audit.models import Entry, Outcome
from agentapi.errors import ForbiddenError, InvalidRequestError, NotFoundError, UnauthenticatedError
from agentapi.identity.permissions import Permission, permits
from agentapi.identity.revocations import store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi._core import VerifiedToken
    from agentapi.audit.log import AuditLog
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.principal import Principal
    from agentapi.storage.database import Database

__all__ = ["RevocationInput", "RevocationRoutes"]

_LONGEST_LEEWAY: Final = timedelta(seconds=300)
_MAX_AUDIENCES: Final = 16
_NOT_GOOD: Final = "The token is not one that is good here."


class RevocationInput(BaseModel):
    """Body of a revocation."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=16 * 1024)]


class RevocationRoutes:
    """Revoke tokens.

    Args:
        authorize: Gives the principal of a request.
        admit: Gives the principal of a verified token.
        database: Where revocations are kept.
        audit: Where they are recorded.
        issuers: Verifies tokens, and refuses them from then on.
        public_url: What every address that a token may be for begins with.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        admit: Callable[[VerifiedToken], Awaitable[Principal]],
        database: Database,
        audit: AuditLog,
        issuers: IssuerDirectory,
        public_url: str,
    ) -> None:
        self._authorize = authorize
        self._admit = admit
        self._database = database
        self._audit = audit
        self._issuers = issuers
        self._public_url = public_url

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [Route("/api/v1/tokens/revoke", self.revoke, methods=["POST"])]

    async def revoke(self, request: Request) -> Response:
        """``POST /api/v1/tokens/revoke``."""
        principal = await self._authorize(request)
        text = parse(RevocationInput, await read_json(request)).token
        try:
            token = await self._verified(text)
            owner = await self._admit(token)
        except (UnauthenticatedError, ForbiddenError, NotFoundError):
            raise InvalidRequestError(_NOT_GOOD) from None
        if owner.org_id != principal.org_id:
            raise InvalidRequestError(_NOT_GOOD)
        if owner.user_id != principal.user_id and not permits(principal, Permission.TOKENS_REVOKE_ALL):
            raise ForbiddenError("The token is somebody else's.")
        if token.token_id is None:
            raise InvalidRequestError(
                "The token has no name of its own ('jti'), by which it could be told from others."
            )
        ends = datetime.fromtimestamp(token.expires_at, UTC) + _LONGEST_LEEWAY
        async with self._database.tenant_transaction(principal) as connection:
            await store.insert(connection, token.issuer, token.token_id, expires_at=ends)
            details = {"issuer": token.issuer, "user": str(owner.user_id)}
            entry = Entry("token.revoked", Outcome.SUCCESS, f"jti:{token.token_id}", details)
            await self._audit.record(connection, principal, entry)
        self._issuers.revoke(token.issuer, token.token_id, int(ends.timestamp()))
        return Response(status_code=204)

    async def _verified(self, text: str) -> VerifiedToken:
        """Return the token as any resource of this gateway would verify it.

        Raises:
            UnauthenticatedError: None would.
        """
        for audience in _audiences(text):
            if audience.startswith(f"{self._public_url}/"):
                try:
                    return await self._issuers.verify(text, audience)
                except UnauthenticatedError:
                    continue
        return await self._issuers.verify(text, self._public_url)


def _audiences(text: str) -> list[str]:
    """Return what a token says it is for, before anything of it is believed."""
    try:
        payload = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        given = claims["aud"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, binascii.Error):
        return []
    listed = given if isinstance(given, list) else [given]
    return [audience for audience in listed[:_MAX_AUDIENCES] if isinstance(audience, str)]
