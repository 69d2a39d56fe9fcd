"""``GET /openapi.json`` and ``GET /docs``: the same for everybody, and made when somebody first asks."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

import agentapi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from agentapi.operation import Operation

__all__ = ["ReferenceRoutes"]

_COMMON: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
"""It is asked for anew each time, and answered by 304 while nothing has changed."""


@dataclass(frozen=True, slots=True)
class _Made:
    document: bytes
    page: bytes
    policy: str
    tag: str


class ReferenceRoutes:
    """The routes.

    Args:
        operations: Of all rooms.
        public_url: The gateway's address.
    """

    def __init__(self, operations: Sequence[Operation], *, public_url: str) -> None:
        self._operations = operations
        self._public_url = public_url
        self._making: asyncio.Task[_Made] | None = None

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route("/openapi.json", self.document, methods=["GET"]),
            Route("/docs", self.page, methods=["GET"]),
        ]

    async def document(self, _: Request) -> Response:
        """``GET /openapi.json``; pages of other sites may read it, since it holds nothing that is not public."""
        made = await self._made()
        headers = {**_COMMON, "ETag": made.tag, "Access-Control-Allow-Origin": "*"}
        return Response(made.document, media_type="application/json", headers=headers)

    async def page(self, _: Request) -> Response:
        """``GET /docs``."""
        made = await self._made()
        headers = {
            **_COMMON,
            "ETag": made.tag,
            "Content-Security-Policy": made.policy,
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
        }
        return Response(made.page, media_type="text/html", headers=headers)

    async def _made(self) -> _Made:
        if self._making is None:
            # Schemas of all models take a while, which nobody else has to wait for.
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        return await asyncio.shield(self._making)

    def _make(self) -> _Made:
        # The model of the document is a large library, and a gateway that nobody asks for its reference needs none.
        from agentapi.reference.document import build  # noqa: PLC0415
        from agentapi.reference.page import POLICY, render  # noqa: PLC0415

        document = build(self._operations, public_url=self._public_url, version=agentapi.__version__)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        page = render(document).encode()
        tag = f'"{hashlib.sha256(text + page).hexdigest()[:32]}"'
        return _Made(text, page, POLICY, tag)
