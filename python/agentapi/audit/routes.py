"""``GET /api/v1/audit``, its pages and its export; who may ask is decided by whoever hands ``reader`` in."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from agentapi.api_input import page_limit
from agentapi.audit import store
from agentapi.audit.models import AuditRow, Entry, Filter, Outcome, Position
from agentapi.errors import InvalidCursorError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.audit.documents import AuditRowDocument
    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import Doer
    from agentapi.principal import OrgId
    from agentapi.storage.database import Database

__all__ = ["AuditRoutes", "as_json", "exported"]

_EXPORT_PAGE: Final = 1_000
_MAX_TEXT: Final = 256
_TEXTS: Final = ("action", "resource", "request_id")


class AuditRoutes:
    """The routes.

    Args:
        database: Where the log is.
        audit: Is told of exports, by which the log leaves the gateway.
        reader: Returns who reads, in the organisation whose log the request may read: its caller's, or the deployment.
    """

    def __init__(self, database: Database, audit: AuditLog, reader: Callable[[Request], Awaitable[Doer]]) -> None:
        self._database = database
        self._audit = audit
        self._reader = reader

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/v1/audit", self._list, methods=["GET"]),
            Route("/api/v1/audit/export", self._export, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        org_id = (await self._reader(request)).org_id
        wanted, limit, after = _filter(request), page_limit(request), _cursor(request)
        async with self._database.organization_transaction(org_id) as connection:
            rows = await store.find(connection, org_id, wanted, after=after, limit=limit + 1)
        page = rows[:limit]
        following = _encoded(page[-1]) if len(rows) > limit else None
        return JSONResponse({"items": [as_json(row) for row in page], "next_cursor": following})

    async def _export(self, request: Request) -> Response:
        reader = await self._reader(request)
        wanted = _filter(request)
        await self._audit.call(reader, Entry("audit.exported", Outcome.SUCCESS, "", _asked_for(wanted)))
        lines = exported(self._database, reader.org_id, wanted)
        return StreamingResponse(lines, media_type="application/x-ndjson")


async def exported(database: Database, org_id: OrgId, wanted: Filter) -> AsyncIterator[bytes]:
    """Yield the rows of an organisation as lines of JSON, newest first, some of them at a time.

    No transaction outlives its lines, so a reader may take its time.
    """
    after: Position | None = None
    while True:
        async with database.organization_transaction(org_id) as connection:
            rows = await store.find(connection, org_id, wanted, after=after, limit=_EXPORT_PAGE)
        if rows:
            yield b"".join(json.dumps(as_json(row), ensure_ascii=False).encode() + b"\n" for row in rows)
            after = _position(rows[-1])
        if len(rows) < _EXPORT_PAGE:
            return


def as_json(row: AuditRow) -> AuditRowDocument:
    """Return a row as it is shown, with all that its hash is made of."""
    return {
        "id": f"{row.writer_id}:{row.sequence}",
        "org_id": str(row.org_id),
        "time": store.from_us(row.recorded_at_us).isoformat(timespec="microseconds"),
        "actor_id": None if row.actor_id is None else str(row.actor_id),
        "action": row.action,
        "outcome": Outcome(row.outcome),
        "resource": row.resource,
        "address": row.address,
        "agent": row.agent,
        "request_id": row.request_id,
        "details": json.loads(row.details),
        "writer_id": str(row.writer_id),
        "sequence": row.sequence,
        "previous": row.previous.hex(),
        "hash": row.hash.hex(),
    }


def _filter(request: Request) -> Filter:
    """Return what is asked for.

    Raises:
        InvalidRequestError: A parameter is not what it should be.
    """
    given = request.query_params
    for name in _TEXTS:
        if len(given.get(name, "")) > _MAX_TEXT or "\0" in given.get(name, ""):
            raise InvalidRequestError(f"The parameter '{name}' is text of at most {_MAX_TEXT} characters.")
    return Filter(
        actor_id=_parsed(request, "actor_id", UUID, "an id"),
        action=given.get("action"),
        resource=given.get("resource"),
        outcome=_parsed(request, "outcome", Outcome, "one of " + ", ".join(Outcome)),
        request_id=given.get("request_id"),
        since=_parsed(request, "since", _time, "a time like 2026-11-22T12:00:00Z"),
        until=_parsed(request, "until", _time, "a time like 2026-11-22T12:00:00Z"),
    )


def _asked_for(wanted: Filter) -> dict[str, str | int | bool | None]:
    """Return what the log is told of a filter."""
    given = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
    return {name: str(value) for name, value in given.items() if value is not None}


def _parsed(request: Request, name: str, read: Callable[[str], Any], what: str) -> Any:  # noqa: ANN401 - what it reads
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise InvalidRequestError(f"The parameter '{name}' is {what}.") from None


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time


def _position(row: AuditRow) -> Position:
    return Position(row.recorded_at_us, row.writer_id, row.sequence)


def _encoded(row: AuditRow) -> str:
    place = [row.recorded_at_us, str(row.writer_id), row.sequence]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _cursor(request: Request) -> Position | None:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return None
    try:
        at_us, writer_id, sequence = json.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        if type(at_us) is int and type(sequence) is int and abs(at_us) < 2**57 and 0 < sequence < 2**63:
            store.from_us(at_us)
            return Position(at_us, UUID(writer_id), sequence)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, binascii.Error):
        pass
    raise InvalidCursorError
