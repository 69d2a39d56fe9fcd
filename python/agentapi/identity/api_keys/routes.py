"""``/api/v1/api-keys``: a key's text is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import decode_cursor, encode_cursor, known_id, page_limit, parse, read_json
from agentapi.identity.api_keys.book import NO_KEY
from agentapi.identity.api_keys.models import API_READ, API_WRITE, MCP_SCOPES, KeyId
from agentapi.identity.api_keys.text import public_part
from agentapi.preconditions import entity_tag, if_match
from agentapi.principal import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from agentapi.identity.api_keys.book import KeyBook
    from agentapi.identity.api_keys.documents import KeyDocument, NewKeyDocument
    from agentapi.identity.api_keys.models import ApiKey
    from agentapi.principal import Principal

__all__ = ["KeyInput", "KeyRoutes", "RotationInput"]

_BASE: Final = "/api/v1/api-keys"
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")
_NO_STORE: Final = {"Cache-Control": "no-store"}
_DAY_S: Final = 86_400
_LIFETIME_S: Final = 90 * _DAY_S


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class KeyInput(_Input):
    """Body of a new key."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
    acts_as: Literal["user", "agent"] = "user"
    role: Role | None = None
    """By default the maker's, or that of an agent."""
    scopes: Annotated[
        frozenset[Literal["api:read", "api:write", "mcp:prompts", "mcp:resources", "mcp:tools"]], Field()
    ] = frozenset(MCP_SCOPES)
    workspace: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)] | None = None
    expires_in_s: Annotated[int, Field(ge=60, le=10 * 366 * _DAY_S)] | None = _LIFETIME_S
    """Null: never."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.scopes:
            raise ValueError("a key without a scope is good for nothing")
        if self.workspace is not None and self.scopes & {API_READ, API_WRITE}:
            raise ValueError("a key for one workspace is good for its MCP endpoint alone, not for the API")
        return self


class RotationInput(_Input):
    """Body of a rotation."""

    overlap_s: Annotated[int, Field(ge=0, le=7 * _DAY_S)] = _DAY_S
    """How long the old key stays good."""


class KeyRoutes:
    """Make, list, read, rotate and revoke keys.

    Args:
        authorize: Gives the principal of a request.
        book: The keys.
    """

    def __init__(self, *, authorize: Callable[[Request], Awaitable[Principal]], book: KeyBook) -> None:
        self._authorize = authorize
        self._book = book

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(_BASE, self.create, methods=["POST"]),
            Route(_BASE, self.page, methods=["GET"]),
            Route(f"{_BASE}/{{id}}", self.read, methods=["GET"]),
            Route(f"{_BASE}/{{id}}", self.revoke, methods=["DELETE"]),
            Route(f"{_BASE}/{{id}}/rotate", self.rotate, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """``POST /api/v1/api-keys``."""
        principal = await self._authorize(request)
        given = parse(KeyInput, await read_json(request))
        key, text = await self._book.create(
            principal,
            name=given.name,
            agent=given.acts_as == "agent",
            role=given.role,
            scopes=frozenset(given.scopes),
            workspace=given.workspace,
            lifetime=None if given.expires_in_s is None else timedelta(seconds=given.expires_in_s),
        )
        document: NewKeyDocument = {**_document(key), "key": text}
        return _answer(document, status=201, headers={"Location": f"{_BASE}/{key.id}"})

    async def page(self, request: Request) -> Response:
        """``GET /api/v1/api-keys?limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, cursor = page_limit(request), decode_cursor(request, _NAME)
        after = None if cursor is None else (cursor[0], KeyId(cursor[1]))
        found = await self._book.page(principal, after=after, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        document = {
            "items": [_document(key) for key in found[:limit]],
            "next_cursor": None if last is None else encode_cursor(last.name, last.id),
        }
        return JSONResponse(document, headers=_NO_STORE)

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/api-keys/{id}``."""
        principal = await self._authorize(request)
        return _answer(_document(await self._book.get(principal, _id(request))))

    async def rotate(self, request: Request) -> Response:
        """``POST /api/v1/api-keys/{id}/rotate``."""
        principal = await self._authorize(request)
        given = parse(RotationInput, await read_json(request))
        overlap = timedelta(seconds=given.overlap_s)
        key, text = await self._book.rotate(principal, _id(request), overlap=overlap, expected=if_match(request))
        document: NewKeyDocument = {**_document(key), "key": text}
        return _answer(document)

    async def revoke(self, request: Request) -> Response:
        """``DELETE /api/v1/api-keys/{id}``."""
        principal = await self._authorize(request)
        await self._book.revoke(principal, _id(request), expected=if_match(request))
        return Response(status_code=204)


def _id(request: Request) -> KeyId:
    return KeyId(known_id(request.path_params["id"], NO_KEY))


def _answer(document: KeyDocument, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    tagged = {**_NO_STORE, "ETag": entity_tag(document["version"]), **(headers or {})}
    return JSONResponse(document, status_code=status, headers=tagged)


def _document(key: ApiKey) -> KeyDocument:
    return {
        "id": str(key.id),
        "name": key.name,
        "begins_with": public_part(key.org_id, key.id),
        "acts_as": "agent" if key.is_agent else "user",
        "role": key.role,
        "scopes": sorted(key.scopes),
        "workspace": key.workspace,
        "created_by": str(key.created_by),
        "created_at": key.created_at.isoformat(),
        "rotated_at": _time(key.rotated_at),
        "previous_until": _time(key.previous_until),
        "expires_at": _time(key.expires_at),
        "last_used_at": _time(key.last_used_at),
        "revoked_at": _time(key.revoked_at),
        "version": key.version,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
