"""``/connected/{id}``: what the browser is shown once an account has been connected.

The callback's address holds a code and a state, so nobody stays there. The page behind it looks how the connection
stands each time, so that it can be loaded again and says what is true then. Its id is sealed, names whose connection
it is about, and lets its reader do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentapi._core import SealError
from agentapi.errors import AgentAPIError, NotFoundError
from agentapi.oauth import pages, store
from agentapi.oauth.models import Status
from agentapi.principal import OrgId, UpstreamId, UserId
from agentapi.problems import status_of
from agentapi.upstreams import store as upstream_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request

    from agentapi._core import Keyring
    from agentapi.oauth.models import Connection
    from agentapi.storage.database import Database

__all__ = ["Outcomes"]

_PATH: Final = "/connected"
_AAD: Final = b"connect.outcome"
_TTL_S: Final = 1800
_MAX_LENGTH: Final = 1024
_ID_BYTES: Final = 16
_TOO_OLD: Final = "This page is too old to say whether an account is connected."


class Outcomes:
    """Leads to the page of a success, and shows it.

    Args:
        database: Where connections are.
        keyring: Seals the ids.
        clock: The time, with its zone.
    """

    def __init__(self, *, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [Route(f"{_PATH}/{{id}}", self.show, methods=["GET"])]

    def redirect(self, made: Connection) -> Response:
        """Return what takes the browser from the callback to the page about ``made``."""
        plaintext = made.org_id.bytes + made.user_id.bytes + made.upstream_id.bytes
        sealed = self._keyring.seal_text_until(plaintext, _AAD, self._now() + _TTL_S)
        return RedirectResponse(
            f"{_PATH}/{sealed}", 303, {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        )

    async def show(self, request: Request) -> Response:
        """``GET /connected/{id}``: how the connection stands."""
        try:
            return await self._shown(request.path_params["id"])
        except AgentAPIError as error:
            return pages.no_outcome(status_of(error), error.message)

    async def _shown(self, sealed: str) -> Response:
        if len(sealed) > _MAX_LENGTH or not sealed.isascii():
            raise NotFoundError(_TOO_OLD)
        try:
            opened = self._keyring.open_text_unexpired(sealed, _AAD, self._now())
        except SealError:
            raise NotFoundError(_TOO_OLD) from None
        org, user, upstream_id = (
            UUID(bytes=opened[start : start + _ID_BYTES]) for start in range(0, 3 * _ID_BYTES, _ID_BYTES)
        )
        async with self._database.user_transaction(OrgId(org), UserId(user)) as connection:
            upstream = await upstream_store.get_upstream(connection, UpstreamId(upstream_id))
            held = await store.find_connection(connection, UserId(user), upstream.id)
        if held is None or held.status is not Status.ACTIVE:
            raise NotFoundError(f"Your account was connected to {upstream.name}, and is not any more.")
        return pages.connected(upstream.name)

    def _now(self) -> int:
        return int(self._clock().timestamp())
