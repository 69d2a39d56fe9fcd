"""``/api/v1/sessions``: a token is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import decode_cursor, encode_cursor, known_id, page_limit, parse, read_json
from agentapi.principal import Role, SessionId
from agentapi.prompts.requests import ComposeInput
from agentapi.sessions.book import NO_SESSION
from agentapi.sessions.models import Wish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.principal import Principal
    from agentapi.sessions.book import SessionBook
    from agentapi.sessions.documents import SessionDocument, StartedDocument, TokenDocument
    from agentapi.sessions.models import Session, SessionToken

__all__ = ["SessionInput", "SessionRoutes"]

_BASE: Final = "/api/v1/sessions"
_MAX_BYTES: Final = 1024 * 1024
_NO_STORE: Final = {"Cache-Control": "no-store"}
_MICROSECONDS: Final = re.compile(r"[0-9]{1,17}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class SessionInput(ComposeInput):
    """Body of a new session: where, with which values for the variables of the prompts, and what it may do."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,100}$")] = ""
    role: Role = Role.AGENT
    scopes: Annotated[frozenset[Literal["mcp:prompts", "mcp:resources", "mcp:tools"]] | None, Field(min_length=1)] = (
        None
    )
    """By default all that the maker may pass on."""
    expires_in_s: Annotated[int, Field(ge=60, le=31_622_400)] | None = None
    """Shorter than what the deployment allows, which is the default."""
    idle_timeout_s: Annotated[int, Field(ge=120, le=31_622_400)] | None = None

    def wish(self) -> Wish:
        """Return what is asked for."""
        return Wish(
            workspace=self.workspace,
            name=self.name,
            role=self.role,
            scopes=None if self.scopes is None else frozenset(self.scopes),
            variables=self.variables,
            lifetime=None if self.expires_in_s is None else timedelta(seconds=self.expires_in_s),
            idle=None if self.idle_timeout_s is None else timedelta(seconds=self.idle_timeout_s),
        )


class SessionRoutes:
    """Start, list, read, touch and end sessions.

    Args:
        authorize: Gives the principal of a request.
        book: The sessions.
    """

    def __init__(self, *, authorize: Callable[[Request], Awaitable[Principal]], book: SessionBook) -> None:
        self._authorize = authorize
        self._book = book

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(_BASE, self.create, methods=["POST"]),
            Route(_BASE, self.page, methods=["GET"]),
            Route(f"{_BASE}/{{id}}", self.read, methods=["GET"]),
            Route(f"{_BASE}/{{id}}", self.end, methods=["DELETE"]),
            Route(f"{_BASE}/{{id}}/touch", self.touch, methods=["POST"]),
            Route(f"{_BASE}/{{id}}/tokens", self.mint, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """``POST /api/v1/sessions``: all that an agent needs to begin."""
        principal = await self._authorize(request)
        given = parse(SessionInput, await read_json(request, max_bytes=_MAX_BYTES))
        started = await self._book.create(principal, given.wish())
        document: StartedDocument = {
            **_document(started.session),
            **_token(started.token),
            "system_prompt": started.prompt,
        }
        headers = {**_NO_STORE, "Location": f"{_BASE}/{started.session.id}"}
        return JSONResponse(document, status_code=201, headers=headers)

    async def page(self, request: Request) -> Response:
        """``GET /api/v1/sessions?limit=&cursor=``, the newest first."""
        principal = await self._authorize(request)
        limit, cursor = page_limit(request), decode_cursor(request, _MICROSECONDS)
        before = None if cursor is None else (_EPOCH + int(cursor[0]) * _MICROSECOND, cursor[1])
        found = await self._book.page(principal, before=before, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        document = {
            "items": [_document(session) for session in found[:limit]],
            "next_cursor": None if last is None else encode_cursor(_micros(last.created_at), last.id),
        }
        return JSONResponse(document, headers=_NO_STORE)

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/sessions/{id}``."""
        principal = await self._authorize(request)
        return JSONResponse(_document(await self._book.get(principal, _id(request))), headers=_NO_STORE)

    async def touch(self, request: Request) -> Response:
        """``POST /api/v1/sessions/{id}/touch``."""
        principal = await self._authorize(request)
        return JSONResponse(_document(await self._book.touch(principal, _id(request))), headers=_NO_STORE)

    async def mint(self, request: Request) -> Response:
        """``POST /api/v1/sessions/{id}/tokens``."""
        principal = await self._authorize(request)
        token = await self._book.mint(principal, _id(request))
        return JSONResponse(_token(token), status_code=201, headers=_NO_STORE)

    async def end(self, request: Request) -> Response:
        """``DELETE /api/v1/sessions/{id}``."""
        principal = await self._authorize(request)
        await self._book.end(principal, _id(request))
        return Response(status_code=204)


def _id(request: Request) -> SessionId:
    return SessionId(known_id(request.path_params["id"], NO_SESSION))


def _micros(moment: datetime) -> str:
    return str((moment - _EPOCH) // _MICROSECOND)


def _token(token: SessionToken) -> TokenDocument:
    return {"mcp_url": token.mcp_url, "token": token.text, "token_expires_at": token.expires_at.isoformat()}


def _document(session: Session) -> SessionDocument:
    over = session.over(datetime.now(UTC))
    return {
        "id": str(session.id),
        "name": session.name,
        "workspace": session.workspace,
        "status": "live" if over is None else "ended",
        "end_reason": over,
        "user_id": str(session.user_id),
        "role": session.role,
        "scopes": sorted(session.scopes),
        "created_at": session.created_at.isoformat(),
        "last_used_at": session.last_used_at.isoformat(),
        "idle_timeout_s": int(session.idle.total_seconds()),
        "expires_at": session.expires_at.isoformat(),
        "ended_at": None if session.ended_at is None else session.ended_at.isoformat(),
    }
