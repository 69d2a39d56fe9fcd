"""``/.well-known/jwks.json``: the public keys of the gateway's own issuer (RFC 7517)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from agentapi.identity.signing_keys.ring import SigningRing

__all__ = ["key_set_route"]

_KEPT_S: Final = 300
"""Half of what a key is published ahead for."""


def key_set_route(ring: SigningRing) -> Route:
    """Return the route, for the application to mount."""

    async def key_set(_: Request) -> Response:
        headers = {"Cache-Control": f"public, max-age={_KEPT_S}"}
        return Response(await ring.current_key_set(), media_type="application/jwk-set+json", headers=headers)

    return Route("/.well-known/jwks.json", key_set, methods=["GET"])
