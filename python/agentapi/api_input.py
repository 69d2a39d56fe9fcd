"""What every route under ``/api`` reads and shows alike: a JSON body held to its model, a page's bounds, an id."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Annotated, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from agentapi.errors import (
    FieldError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedMediaTypeError,
)
from agentapi.operation import Parameter, Slug
from agentapi.request_body import read_body

if TYPE_CHECKING:
    import re

    from starlette.requests import Request

__all__ = [
    "INVALID_BODY",
    "MAX_LIMIT",
    "PAGE",
    "WORKSPACE",
    "decode_cursor",
    "encode_cursor",
    "known_id",
    "page_limit",
    "parse",
    "read_json",
]

_M = TypeVar("_M", bound=BaseModel)

INVALID_BODY = "The request body is not valid."
MAX_LIMIT = 200
_DEFAULT_LIMIT = 50
_MAX_BODY_BYTES = 64 * 1024

_Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, default=_DEFAULT_LIMIT)]
PAGE: Final = (
    Parameter("limit", "How many items a page holds at most.", _Limit),
    Parameter("cursor", "The `next_cursor` of the page before; without it the list begins."),
)
WORKSPACE: Final = Parameter("workspace", "The slug of the workspace; `main` where none is given.", Slug)


def parse(model: type[_M], body: bytes) -> _M:
    """Return ``body`` as ``model``.

    Raises:
        InvalidRequestError: It is not JSON of that shape; the fields are named, their values are not repeated.
    """
    try:
        value = model.model_validate_json(body)
        json.loads(body, object_pairs_hook=_refuse_duplicates)
    except ValidationError as error:
        fields = tuple(
            FieldError(_pointer(detail["loc"]), detail["msg"])
            for detail in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise InvalidRequestError(INVALID_BODY, fields) from None
    return value


async def read_json(request: Request, *, max_bytes: int = _MAX_BODY_BYTES) -> bytes:
    """Return the body of a request that says it is JSON.

    Raises:
        UnsupportedMediaTypeError: It says otherwise.
        PayloadTooLargeError: It exceeds ``max_bytes``.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaTypeError("The request body must be application/json.")
    return await read_body(request.scope, request.receive, max_bytes=max_bytes)


def page_limit(request: Request) -> int:
    """Return how many items a page is to hold.

    Raises:
        InvalidRequestError: The parameter is not a number in range.
    """
    value = request.query_params.get("limit")
    if value is None:
        return _DEFAULT_LIMIT
    if not (value.isascii() and value.isdigit() and len(value) < 5 and 1 <= int(value) <= MAX_LIMIT):  # noqa: PLR2004
        raise InvalidRequestError(f"The parameter 'limit' is a number from 1 to {MAX_LIMIT}.")
    return int(value)


def encode_cursor(name: str, id_: UUID) -> str:
    """Return the cursor behind the item of that name and id."""
    return base64.urlsafe_b64encode(json.dumps([name, str(id_)]).encode()).decode()


def decode_cursor(request: Request, name: re.Pattern[str]) -> tuple[str, UUID] | None:
    """Return the name and id behind which a page begins, or None for the first page.

    Args:
        request: Whose query has the cursor.
        name: What a name may be at most; a stranger's cursor must not reach the database as it came.

    Raises:
        InvalidCursorError: No list gave that cursor.
    """
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return None
    try:
        text, id_ = json.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        if name.fullmatch(text) is not None:
            return text, UUID(id_)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        pass
    raise InvalidCursorError


def known_id(text: str, missing: str) -> UUID:
    """Return ``text`` as the id of something.

    Raises:
        NotFoundError: It is no id, so there is no such thing, which is told in the words ``missing``.
    """
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(missing) from None


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    """Refuse an object that holds a key twice, since two parsers could read it differently."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            field = FieldError(_pointer((key[:64],)), "The key occurs twice.")
            raise InvalidRequestError(INVALID_BODY, (field,))
        seen.add(key)


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)
