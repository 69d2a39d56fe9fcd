"""``/api/v1/mcp/credentials/{upstream}``: a user's own credential; its values go in and never come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import known_id, parse, read_json
from agentapi.oauth.brought.book import form_of
from agentapi.principal import UpstreamId
from agentapi.upstreams.link import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.oauth.brought.book import BroughtBook, Report
    from agentapi.oauth.documents import CredentialDocument, CredentialFieldDocument
    from agentapi.principal import Principal
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["BroughtRoutes", "ValuesInput"]

_PATH: Final = "/api/v1/mcp/credentials/{upstream}"
_MAX_BODY_BYTES: Final = 256 * 1024
_NO_STORE: Final = {"Cache-Control": "no-store"}


class ValuesInput(BaseModel):
    """Body of a ``PUT``: a value for each field of the form."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    values: Annotated[dict[str, Annotated[SecretStr, Field(max_length=16_384)]], Field(max_length=8)]


class BroughtRoutes:
    """Give a credential, look how it stands, take it back.

    Args:
        authorize: Gives the principal of a request.
        upstreams: The stored upstreams.
        book: What users brought.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        upstreams: UpstreamRegistry,
        book: BroughtBook,
    ) -> None:
        self._authorize = authorize
        self._upstreams = upstreams
        self._book = book

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(_PATH, self.put, methods=["PUT"]),
            Route(_PATH, self.read, methods=["GET"]),
            Route(_PATH, self.delete, methods=["DELETE"]),
        ]

    async def put(self, request: Request) -> Response:
        """``PUT``: try the values at the upstream, and store them if it takes them."""
        caller, upstream = await self._whose(request)
        given = parse(ValuesInput, await read_json(request, max_bytes=_MAX_BODY_BYTES))
        return _answer(upstream, await self._book.put(caller, upstream, given.values))

    async def read(self, request: Request) -> Response:
        """``GET``: what the upstream asks for, which of it is there, since when, and whether it is good."""
        caller, upstream = await self._whose(request)
        return _answer(upstream, await self._book.report(caller, upstream))

    async def delete(self, request: Request) -> Response:
        """``DELETE``: forget the values."""
        caller, upstream = await self._whose(request)
        await self._book.delete(caller, upstream)
        return Response(status_code=204)

    async def _whose(self, request: Request) -> tuple[Caller, Upstream]:
        principal = await self._authorize(request)
        id_ = UpstreamId(known_id(request.path_params["upstream"], "There is no such upstream."))
        upstream = await self._upstreams.get(principal, id_)
        return Caller(principal.org_id, principal.user_id), upstream


def _answer(upstream: Upstream, report: Report) -> JSONResponse:
    fields: list[CredentialFieldDocument] = [
        {
            "name": field.name,
            "label": field.label,
            "kind": field.kind,
            "pattern": field.pattern,
            "min_length": field.min_length,
            "max_length": field.max_length,
            "help": field.help,
            "help_url": field.help_url,
            "is_set": field.name in report.fields,
        }
        for field in form_of(upstream).fields
    ]
    document: CredentialDocument = {
        "upstream": str(upstream.id),
        "name": upstream.name,
        "status": report.standing,
        "fields": fields,
        "created_at": None if report.created_at is None else report.created_at.isoformat(),
        "updated_at": None if report.updated_at is None else report.updated_at.isoformat(),
    }
    return JSONResponse(document, headers=_NO_STORE)
